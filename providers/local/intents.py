"""What is written down: a directory for each machine, and the names of those that have ended.

    STATE/lock          held while machines are added or taken away
    STATE/ended.json    those deleted within the hour, by id
    STATE/vms/ID/       intent.json first; then user-data, vmm.pid, qmp.sock, console.log, ...

A directory appears under its name with its intent in it, or not at all.
"""

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from providers.local.requests import Ending, Intent, intent_from, is_id

REMEMBERED: Final = 3600.0  # seconds


class Book:
    """One state directory. Blocking."""

    def __init__(self, state_dir: str) -> None:
        self._root = Path(state_dir)
        self._vms = self._root / "vms"

    def directory(self, id: str) -> str:
        """A machine's."""
        assert is_id(id)
        return str(self._vms / id)

    def prepare(self) -> None:
        """Make what is there for all machines. Raises OSError."""
        if not (self._root / "ended.json").exists():
            with self.locked():
                if not (self._root / "ended.json").exists():
                    _write(self._root / "ended.json", b"{}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else adds or takes away meanwhile, in this process or another."""
        self._vms.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def machine(self, id: str, *, wait: bool = True) -> Iterator[bool]:
        """Nobody else starts or ends this machine meanwhile. False: it is not there (any more), or is held already
        by another and we do not wait for that.
        """
        try:
            handle = os.open(self.directory(id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            yield False
            return
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield os.fstat(handle).st_nlink > 0  # it may have been taken away while we waited
        finally:
            os.close(handle)

    def intents(self) -> list[Intent]:
        """Every machine's; what is no intent of ours is left alone. Raises OSError."""
        try:
            names = sorted(os.listdir(self._vms))
        except FileNotFoundError:
            return []
        found = (self.intent(name) for name in names if is_id(name))
        return [each for each in found if each is not None]

    def intent(self, id: str) -> Intent | None:
        """A machine's; None when there is none. Raises OSError, ValueError."""
        try:
            return intent_from(json.loads(Path(self.directory(id), "intent.json").read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ValueError(f"{self.directory(id)}/intent.json {error}") from None

    def add(self, intent: Intent, user_data: bytes) -> None:
        """Write it down; only with `locked`."""
        new = self._vms / f".{intent.id}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        _write(new / "user-data", user_data)
        _write(new / "intent.json", _json(intent))
        new.rename(self.directory(intent.id))
        _sync(self._vms)

    def change(self, intent: Intent) -> None:
        """Another power-on of the same machine."""
        path = Path(self.directory(intent.id), "intent.json")
        _write(path.with_suffix(".new"), _json(intent))
        path.with_suffix(".new").rename(path)

    def remove(self, id: str) -> None:
        """Take the directory away; one that is gone is fine."""
        away = self._vms / f".{id}.away"
        shutil.rmtree(away, ignore_errors=True)
        try:
            os.rename(self.directory(id), away)
        except FileNotFoundError:
            return
        shutil.rmtree(away)

    def endings(self, now: float) -> dict[str, Ending]:
        """Those of the last hour."""
        try:
            found = json.loads((self._root / "ended.json").read_text())
            endings = {id: Ending(**fields) for id, fields in found.items()}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (ValueError, TypeError, AttributeError):
            return {}  # a torn write cannot be: it is renamed; what else stands there is not ours
        return {id: each for id, each in endings.items() if now - each.ended_at < REMEMBERED}

    def remember(self, ending: Ending, now: float) -> None:
        """Only with `locked`."""
        kept = {**self.endings(now), ending.id: ending}
        path = self._root / "ended.json"
        fields = {id: dataclasses.asdict(each) for id, each in kept.items()}
        _write(path.with_suffix(".new"), json.dumps(fields).encode())
        path.with_suffix(".new").rename(path)


def _json(intent: Intent) -> bytes:
    fields: dict[str, Any] = dataclasses.asdict(intent)
    return json.dumps(fields, indent=1, sort_keys=True).encode()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
