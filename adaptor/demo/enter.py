"""Private namespaces for everything that the demo starts.

Network, mount and pid namespaces of our own: no interface, mount or process of the machine is touched, and the end
of the demo's first process ends every other. An ordinary user gets a user namespace around them.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from adaptor.errors import AdaptorError

_MARK: Final = "PEERPODS_DEMO_NAMESPACES"
_SYSCTLS: Final = {
    "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
}


class NamespacesRefused(AdaptorError):
    """This kernel, or this user's limits, do not allow the namespaces that a demo needs."""


def namespaces(arguments: Sequence[str] | None = None) -> None:
    """Return inside the namespaces, by running this very command again there; outside, do not return.

    Raises: NamespacesRefused, with what to do about it.
    """
    if os.environ.pop(_MARK, ""):
        _prepare()
        return
    unshare = command()
    _probe(unshare)
    again = arguments if arguments is not None else [sys.executable, "-m", "adaptor", *sys.argv[1:]]
    os.environ[_MARK] = "inside"
    os.execvp(unshare[0], [*unshare, *again])


def command() -> list[str]:
    """The unshare(1) command line that runs what follows it in namespaces of its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def _probe(unshare: Sequence[str]) -> None:
    try:
        tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NamespacesRefused("the demo needs unshare(1): install the package util-linux") from error
    if tried.returncode != 0:
        raise NamespacesRefused(
            f"the demo needs namespaces of its own, and the kernel refuses: {tried.stderr.strip() or 'no reason given'}"
            f"{_advice()}"
        )


def _advice() -> str:
    """Which setting forbids it, and the command that allows it; root needs none of them."""
    wrong = [
        f"\n  {path} is {value}: run as root, or: sudo {cure}"
        for path, (value, cure) in _SYSCTLS.items()
        if Path(path).exists() and Path(path).read_text().strip() == value
    ]
    return "".join(wrong) or "\n  In a container, start it with --privileged or run the demo on the machine itself."


def _prepare() -> None:
    """Loopback up, an empty /run: the production paths below it, seen by nobody else."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
