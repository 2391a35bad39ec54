"""The parts that stand alone: the cidata disk, the metadata service, QEMU's words, this host's abilities."""

import errno
import io
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from providers.errors import Capacity, Denied, NotFound, ProviderError, Transient, Unsupported
from providers.local import errors, hosts, imds, iso, qmp
from providers.local.config import LocalConfig
from providers.local.errors import Ended, Refused

FILES = {"user-data": b"#cloud-config\n" * 300, "meta-data": b"instance-id: x\n"}


def test_a_cidata_disk_is_the_same_for_the_same_files_and_has_its_label() -> None:
    made = iso.image("cidata", FILES)
    assert made == iso.image("cidata", dict(reversed(FILES.items())))
    assert len(made) % iso.SECTOR == 0
    assert made[16 * iso.SECTOR + 1 :][:5] == b"CD001"
    assert made[16 * iso.SECTOR + 40 :][:6] == b"cidata"


def test_a_cidata_disk_gives_back_what_was_put_in(tmp_path: Path) -> None:
    """Read by its own root directory, as a kernel does."""
    made = iso.image("cidata", FILES)
    record = made[16 * iso.SECTOR + 156 :][:34]
    at = int.from_bytes(record[2:6], "little") * iso.SECTOR
    found = {}
    while made[at]:
        name = made[at + 33 :][: made[at + 32]]
        where, length = (int.from_bytes(made[at + o : at + o + 4], "little") for o in (2, 10))
        if len(name) > 1:
            found[name.decode().lower().removesuffix(".;1")] = made[where * iso.SECTOR :][:length]
        at += made[at]
    assert found == FILES


@pytest.mark.skipif(shutil.which("isoinfo") is None, reason="isoinfo (genisoimage) is not installed")
def test_isoinfo_reads_it_too(tmp_path: Path) -> None:
    path = tmp_path / "c.iso"
    path.write_bytes(iso.image("cidata", FILES))
    said = subprocess.run(["isoinfo", "-i", str(path), "-x", "/USER-DATA.;1"], capture_output=True, check=True)
    assert said.stdout == FILES["user-data"]


def test_names_that_do_not_fit_make_no_disk() -> None:
    for name in ("", "a/b", "x" * 31):
        with pytest.raises(ValueError, match="fit"):
            iso.image("cidata", {name: b""})


def test_a_guest_that_asks_as_at_amazon_gets_its_user_data() -> None:
    asked = (
        b"PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        b"GET /latest/user-data HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n\r\n"
        b"GET /computeMetadata/v1/ HTTP/1.1\r\n\r\n"
    )
    said = io.BytesIO()
    imds.serve(io.BytesIO(asked), said, b"the data")
    answers = said.getvalue().split(b"HTTP/1.1 ")[1:]
    assert [each.partition(b"\r\n")[0] for each in answers] == [b"200 OK", b"200 OK", b"404 Not Found"]
    assert answers[1].endswith(b"\r\n\r\nthe data")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory", Capacity),
        ("Could not access KVM kernel module: No such file or directory", Unsupported),
        ("qemu-system-x86_64: -netdev user,...: Could not set up host forwarding rule 'tcp:127.0.0.1:1-:2'", Transient),
        ("qemu-system-x86_64: could not configure /dev/net/tun (pp-1): Device or resource busy", Transient),
        ("qemu-system-x86_64: could not configure /dev/net/tun (pp-1): Operation not permitted", Denied),
        ("qemu-system-x86_64: -drive file=/a: Could not open '/a': No such file or directory", NotFound),
        ("qemu-system-x86_64: -object sev-snp-guest,id=t: invalid object type: sev-snp-guest", Unsupported),
        ("something that nobody has seen", ProviderError),
    ],
)
def test_qemus_last_words_are_a_decision(words: str, kind: type[ProviderError]) -> None:
    error = errors.of(Ended(words), "cannot launch podvm")
    assert type(error) is kind
    assert words in str(error)
    assert error.message.startswith("cannot launch podvm")
    assert error.code


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOMEM, Capacity), (errno.EPERM, Denied), (errno.EADDRINUSE, Transient), (errno.ENOTTY, ProviderError)],
)
def test_an_errno_is_a_decision(number: int, kind: type[ProviderError]) -> None:
    error = errors.of(OSError(number, "said", "/a/file"), "cannot launch podvm")
    assert type(error) is kind
    assert error.code == errno.errorcode[number]
    assert "/a/file" in error.message


def test_kvm_takes_the_device_and_the_cpu(tmp_path: Path) -> None:
    """A device that opens says nothing by itself: there are kernels whose VMs then never boot."""
    device, cpu = tmp_path / "kvm", tmp_path / "cpuinfo"
    cpu.write_text("processor\t: 0\nflags\t\t: fpu sse2 svm avx\n")
    assert "cannot be opened" in hosts.kvm_trouble(str(device), str(cpu))
    device.touch()
    assert hosts.kvm_trouble(str(device), str(cpu)) == ""
    cpu.write_text("processor\t: 0\nflags\t\t: fpu sse2 svmx avx\n")
    assert "neither vmx nor svm" in hosts.kvm_trouble(str(device), str(cpu))


def test_kvm_that_is_demanded_and_not_there_says_what_would_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "kvm_trouble", lambda: "no KVM here")
    assert hosts.choose_accel(LocalConfig(accel="auto")) == "tcg"
    with pytest.raises(Refused, match="auto or tcg"):
        hosts.choose_accel(LocalConfig(accel="kvm"))


def test_qemu_that_is_missing_is_named_with_its_package() -> None:
    with pytest.raises(Refused, match="apt-get install qemu-system-x86"):
        hosts.find(LocalConfig(image="/img", qemu="/no/such/qemu"))


def test_name_servers_on_loopback_are_not_a_vms(tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text("search x\nnameserver 127.0.0.53\nnameserver 10.0.0.53\nnameserver fd00::1\n")
    assert hosts.name_servers(LocalConfig(), str(resolv)) == ("10.0.0.53",)
    assert hosts.name_servers(LocalConfig(name_servers=("9.9.9.9",)), str(resolv)) == ("9.9.9.9",)
    assert hosts.name_servers(LocalConfig(), str(tmp_path / "none")) == ()


@pytest.fixture
def qemu(tmp_path: Path) -> tuple[str, list[bytes]]:
    """A socket that says these lines, one for each that it is sent."""
    path, says = str(tmp_path / "qmp.sock"), [b'{"QMP": {}}\n']
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        link, _ = listener.accept()
        with link, listener:
            for line in says:
                link.sendall(line)
                if not link.recv(4096):
                    return

    threading.Thread(target=serve, daemon=True).start()
    return path, says


def test_an_event_between_question_and_answer_is_passed_over(qemu: tuple[str, list[bytes]]) -> None:
    path, says = qemu
    says += [b'{"return": {}}\n', b'{"event": "RESUME"}\r\n{"return": {"status": "running"}}\n']
    assert qmp.ask(path, "query-status", 2.0) == {"status": "running"}


@pytest.mark.parametrize("line", [b"[]\n", b"what?\n", b'{"error": {"desc": "no"}}\n'])
def test_what_is_no_answer_is_an_error(qemu: tuple[str, list[bytes]], line: bytes) -> None:
    path, says = qemu
    says += [line]
    with pytest.raises(OSError, match=r"QEMU says|no"):
        qmp.ask(path, "query-status", 2.0)
