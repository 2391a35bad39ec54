"""Where the daemon's relay comes from: its own, or another's, which may come later."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from adaptor import daemon
from adaptor.config import load
from adaptor.daemon import Daemon
from adaptor.errors import Unavailable
from tests.worlds.clock import VirtualClock


def node(directory: Path, clock: VirtualClock) -> Daemon:
    path = directory / "peerpods.toml"
    path.write_text(
        '[cloud]\nprovider = "aws"\n[aws]\nimage = "ami-0123456789abcdef0"\n'
        f'[node]\nname = "n"\nspawn_relay = false\nrelay_socket = "{directory}/relay.sock"\n'
    )
    return Daemon(load(str(path), {}), clock)


class Late(VirtualClock):
    """Somebody starts a relay after the third sleep."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self.sleeps = 0
        self.relay: subprocess.Popen[bytes] | None = None

    async def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        await super().sleep(seconds)
        if self.sleeps == 3:
            socket = self._directory / "relay.sock"
            words = [sys.executable, "-m", "adaptor", "relay", "--socket", str(socket)]
            self.relay = subprocess.Popen(words, stderr=subprocess.DEVNULL)
            while not socket.exists():
                await asyncio.sleep(0.02)


async def test_a_relay_that_is_anothers_business_is_waited_for_and_never_started(tmp_path: Path) -> None:
    clock = Late(tmp_path)
    waiting = node(tmp_path, clock)
    try:
        client = await waiting._find_relay()
        assert clock.relay is not None
        assert (await client.list()).pid == clock.relay.pid
        assert waiting.readiness() == (False, ("waiting for the relay",))
        await client.aclose()
    finally:
        if clock.relay is not None:
            clock.relay.terminate()
            clock.relay.wait(20)


async def test_an_adaptor_without_a_relay_gives_up_for_whoever_starts_it_again(tmp_path: Path) -> None:
    clock = VirtualClock()
    began = clock.now()
    with pytest.raises(Unavailable, match="Is peerpods' relay running"):
        await node(tmp_path, clock)._find_relay()
    assert clock.now() - began == pytest.approx(daemon._RELAY_PATIENCE, abs=daemon._RELAY_RETRY)
    assert not (tmp_path / "relay.sock").exists()


async def test_a_relay_that_died_is_not_replaced_from_here(tmp_path: Path) -> None:
    await node(tmp_path, VirtualClock())._revive_relay()
    assert not (tmp_path / "relay.sock").exists()
