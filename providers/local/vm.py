"""A real VM: QEMU, and swtpm where it boots by firmware. Blocking."""

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from providers.errors import NotFound, Transient, Unsupported
from providers.local import commands, hosts, image, imds, iso, links, processes, qmp
from providers.local.commands import Files, Host
from providers.local.config import LocalConfig
from providers.local.errors import Ended, Refused
from providers.local.image import Image
from providers.local.requests import Intent, link_of

PIDFILE: Final = "vmm.pid"
_TPM_PIDFILE: Final = "swtpm.pid"
_LOG: Final = "vmm.log"  # what QEMU itself says
_COMES_UP: Final = 20.0  # seconds until QEMU's socket answers; a busy machine's, else a tenth of one
_POLL: Final = 0.01
_QUIT: Final = 2.0  # seconds that QEMU has for each of quit and SIGTERM
_GIB: Final = 1 << 30


def read_image(directory: str) -> Image:
    """What is there, fit for this host. Raises Refused."""
    try:
        found = image.parse(Path(directory, image.FILE).read_text(), directory)
        if found.architecture != hosts.architecture():
            raise Refused(
                Unsupported,
                "image",
                f"the image {directory} is for {found.architecture}, and this host is {hosts.architecture()}",
            )
        for file in found.boots:
            if not os.access(file, os.R_OK):
                raise Refused(NotFound, "image", f"the image's {file} is missing or cannot be read: build it again")
    except image.ImageFault as error:
        raise Refused(NotFound, "image", f"{error}; make an image with `peerpods image build`") from error
    except FileNotFoundError as error:
        raise Refused(
            NotFound,
            "image",
            f"there is no image in {directory} (no {image.FILE}); make one with `peerpods image build`",
        ) from error
    return found


def start(intent: Intent, directory: str, config: LocalConfig) -> None:
    """Power it on; returns when QEMU runs it. Raises OSError, Refused, Ended, having ended what it had started."""
    boots, host = read_image(intent.image), hosts.find(config, intent.boot)
    files = Files(directory)
    if intent.network == "tap":
        links.ensure_bridge(config.bridge, config.subnet)
        links.add_tap(link_of(intent.id), config.bridge)
    _lay_out(intent, boots, host, files)
    log = f"{directory}/{_LOG}"
    with suppress(FileNotFoundError):
        os.unlink(files.qmp)
    if intent.boot == "uefi" and host.swtpm:
        os.makedirs(files.tpm_state, mode=0o700, exist_ok=True)
        pid = processes.spawn(commands.swtpm(host, files), f"{directory}/{_TPM_PIDFILE}", output=log)
        _until(lambda: os.path.exists(files.tpm), pid, log, "swtpm")
    metadata = commands.metadata_command(sys.executable, os.path.abspath(imds.__file__), files)
    command = commands.qemu(intent, boots, host, config, files, metadata)
    Path(directory, "command").write_text(shlex.join(command))
    pid = processes.spawn(command, f"{directory}/{PIDFILE}", output=log)
    _until(lambda: _answers(files.qmp), pid, log, "QEMU")


def state(directory: str) -> str:
    """What QEMU says of its VM: running, paused, internal-error, ...; empty when it does not say."""
    try:
        return str(qmp.ask(Files(directory).qmp, "query-status", 1.0)["status"])
    except (OSError, KeyError, TypeError):
        return ""


def end(intent: Intent, directory: str) -> None:
    """Off, and everything of it away but the directory: quit, SIGTERM, SIGKILL. Raises Refused if it stays."""
    process = processes.read(f"{directory}/{PIDFILE}")
    if processes.alive(process):
        try:
            qmp.ask(Files(directory).qmp, "quit", _QUIT)
        except OSError:
            pass
        else:
            processes.wait(process, _QUIT)
    tpm = processes.read(f"{directory}/{_TPM_PIDFILE}")
    for each, name in ((process, "QEMU"), (tpm, "swtpm")):
        if not processes.end(each, grace=_QUIT):
            assert each is not None
            raise Refused(Transient, "stays", f"{name}, process {each.pid}, does not end even by SIGKILL")
    if intent.network == "tap":
        links.remove(link_of(intent.id))


def words(directory: str) -> str:
    """The last that QEMU said of itself."""
    return _last_line(f"{directory}/{_LOG}")


def _lay_out(intent: Intent, boots: Image, host: Host, files: Files) -> None:
    if intent.user_data == "cidata" and not os.path.exists(files.cidata):
        data = Path(files.user_data).read_bytes()
        meta = f"instance-id: {intent.id}\nlocal-hostname: {intent.name}\n".encode()
        Path(files.cidata).write_bytes(iso.image("cidata", {"user-data": data, "meta-data": meta}))
    if host.variables and not os.path.exists(files.variables):
        shutil.copyfile(host.variables, files.variables)
    if intent.disk_gib and not os.path.exists(files.disk):
        _copy(boots.disk, files.disk, intent.disk_gib * _GIB)


def _copy(source: str, target: str, size: int) -> None:
    """As large as asked for, never smaller than the image; holes stay holes."""
    shutil.copyfile(source, f"{target}.new")
    if os.path.getsize(f"{target}.new") < size:
        os.truncate(f"{target}.new", size)
    os.rename(f"{target}.new", target)


def _until(done: Callable[[], bool], pid: int, log: str, name: str) -> None:
    deadline = time.monotonic() + _COMES_UP
    while not done():
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            said = _last_line(log) or f"it ended with status {os.waitstatus_to_exitcode(status)}, without a word"
            raise Ended(f"{name} did not start: {said}")
        if time.monotonic() > deadline:
            raise TimeoutError(110, f"{name} does not answer within {_COMES_UP:g} s")
        time.sleep(_POLL)


def _answers(path: str) -> bool:
    try:
        return bool(qmp.ask(path, "query-status", 5.0))
    except OSError:
        return False


def _last_line(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][-500:] if lines else ""
