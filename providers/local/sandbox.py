"""NO VM: Linux namespaces on this host, which isolate nothing from it. For trying things out and for tests. Blocking.

The same directories, links and life as a VM's, and a guest in 0.2 s: all that is missing is what VMs are for.
"""

import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from providers import boot
from providers.errors import Denied, NotFound, Transient
from providers.local import links, processes
from providers.local.config import LocalConfig
from providers.local.errors import Refused
from providers.local.requests import Intent, link_of, mac_of

PIDFILE: Final = "vmm.pid"
WARNING: Final = (
    "NO ISOLATION: local.vmm is namespace, so pods run as processes of this host, as root, on its kernel."
    " For trying things out and for tests; never for anybody else's workload"
)
_ISOLATE: Final = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--")
_ENDS: Final = 2.0  # seconds, after its first process was killed


def start(intent: Intent, directory: str, config: LocalConfig, program: Sequence[str] = ()) -> None:
    """Start it. Raises OSError, Refused."""
    links.ensure_bridge(config.bridge, config.subnet)
    links.remove(link_of(intent.id))
    go = Path(directory, "go")
    go.write_text("go\n")  # the script waits for a line
    guest = tuple(program) or (*boot.GUEST, "--user-data", f"{directory}/user-data")
    steps = boot.script("", boot.kept(guest))
    failed: list[BaseException] = []

    def run() -> None:
        mac = mac_of(intent.address)
        try:
            with links.namespace(link_of(intent.id), config.bridge, config.subnet, intent.address, mac, intent.name):
                processes.spawn(
                    [*_ISOLATE, "sh", "-c", steps, intent.id, *guest],
                    f"{directory}/{PIDFILE}",
                    output=f"{directory}/console.log",
                    input=str(go),
                    environment=boot.environment(),
                )
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name=f"peerpods-{intent.id}")  # lives in the namespace that it makes
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    _until_written(f"{directory}/{PIDFILE}")


def end(intent: Intent, directory: str) -> None:
    """By its first process: the kernel ends the others with it. Raises Refused if it stays."""
    process = processes.read(f"{directory}/{PIDFILE}")
    if not processes.end(process, grace=_ENDS, children=True):
        assert process is not None
        raise Refused(Transient, "stays", f"its process {process.pid} does not end even by SIGKILL")
    links.remove(link_of(intent.id))


def trouble() -> str:
    """Why this host cannot do it; empty when it can."""
    if missing := [tool for tool in ("unshare", "mount", "sh") if shutil.which(tool) is None]:
        return f"{' and '.join(missing)} (package util-linux) are missing"
    if not links.may_make():
        return "it needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN)"
    tried = subprocess.run([*_ISOLATE, "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


def check() -> None:
    """Raises Refused when it cannot be done here."""
    if why := trouble():
        kind = Denied if "root" in why or "permitted" in why else NotFound
        raise Refused(kind, "namespaces", f"this host does not let namespaces be made: {why}")


def _until_written(pidfile: str) -> None:
    deadline = time.monotonic() + 10
    while processes.read(pidfile) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(110, "its first process does not start", pidfile)
        time.sleep(0.002)
