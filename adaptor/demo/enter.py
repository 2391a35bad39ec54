"""Private namespaces for everything that the demo, or the end-to-end tests, start.

    python -m adaptor.demo.enter COMMAND...     runs COMMAND there

Network, mount, uts and pid namespaces of our own: no interface, mount or process of the machine is touched, and the
end of the first process ends every other. An ordinary user gets a user namespace around them.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from adaptor.errors import AdaptorError

PRIVATE: Final = "PEERPODS_PRIVATE"  # set for what runs inside

_INSIDE: Final = "--inside"
_SYSCTLS: Final = {
    "/proc/sys/user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "/proc/sys/user/max_net_namespaces": ("0", "sysctl user.max_net_namespaces=10000"),
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
}


class NamespacesRefused(AdaptorError):
    """This kernel, or this user's limits, do not allow the namespaces that are needed."""


def run(command: Sequence[str]) -> NoReturn:
    """Become `command` in private namespaces.

    Raises: NamespacesRefused, with what to do about it.
    """
    unshare = namespaces()
    _probe(unshare)
    os.execvp(unshare[0], [*unshare, sys.executable, "-m", "adaptor.demo.enter", _INSIDE, *command])


def namespaces() -> list[str]:
    """The unshare(1) command line that runs what follows it in namespaces of its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def _probe(unshare: Sequence[str]) -> None:
    try:
        tried = subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise NamespacesRefused("private namespaces need unshare(1): install the package util-linux") from error
    if tried.returncode != 0:
        raise NamespacesRefused(
            "this needs namespaces of its own, and the kernel refuses them: "
            f"{tried.stderr.strip() or 'no reason given'}{_advice()}"
        )


def _advice() -> str:
    """Which setting forbids it, and the command that allows it."""
    wrong = [
        f"\n  {path} is {value}: run as root, or: sudo {cure}"
        for path, (value, cure) in _SYSCTLS.items()
        if Path(path).exists() and Path(path).read_text().strip() == value
    ]
    return "".join(wrong) or "\n  In a container, start it with --privileged or run this on the machine itself."


def _inside(command: Sequence[str]) -> NoReturn:
    """Loopback up, an empty /run: the production paths below it, seen by nobody else. Then `command`."""
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"], check=True)
    os.environ[PRIVATE] = "1"
    os.execvp(command[0], list(command))


def main(arguments: Sequence[str]) -> int:
    """For `python -m`."""
    if arguments[:1] == [_INSIDE]:
        _inside(arguments[1:])
    try:
        run(arguments)
    except NamespacesRefused as error:
        print(f"peerpods: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
