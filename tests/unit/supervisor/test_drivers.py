"""Which drivers are asked for."""

from collections.abc import Callable, Sequence
from pathlib import Path

from podvm_images.supervisor import drivers


def test_every_device_is_asked_for_once(tmp_path: Path) -> None:
    for device, alias in (("pci/1", "pci:v1AF4"), ("pci/1/virtio0", "virtio:d1"), ("pci/2", "pci:v1AF4"), ("cpu", "")):
        (tmp_path / device).mkdir(parents=True)
        (tmp_path / device / "modalias").write_text(alias + "\n")
    assert sorted(drivers.present(str(tmp_path))) == ["pci:v1AF4", "virtio:d1"]


def test_a_device_that_is_attached_later_gets_its_driver_and_one_that_goes_none() -> None:
    event = b"add@/devices/pci/virtio1\0ACTION=add\0SUBSYSTEM=virtio\0MODALIAS=virtio:d00000001v00001AF4\0SEQNUM=7\0"
    assert drivers.modaliases(event) == ["virtio:d00000001v00001AF4"]
    assert drivers.modaliases(event.replace(b"add", b"remove")) == []
    assert drivers.modaliases(b"libudev\0\xfe\xed") == []


class Loop:
    """Runs at once what is for later."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] = []

    def after(self, _seconds: float, call: Callable[[], None]) -> None:
        self.later.append(call)


def test_what_comes_together_is_asked_for_by_one_program() -> None:
    loop, asked = Loop(), []

    def run(command: Sequence[str], ended: Callable[[int], None]) -> None:
        asked.append(list(command[3:]))
        ended(1)

    loaded: list[int] = []
    mine = drivers.Drivers(loop, run, lambda: loaded.append(1))  # type: ignore[arg-type]
    mine._want(["a", "b"])
    mine._want(["b", "c"])
    loop.later.pop()()
    mine._want(["a"])
    assert (asked, loop.later, loaded) == ([["a", "b", "c"]], [], [1])
