"""`peerpods wireguard`: the encrypted network's WireGuard, for an adaptor that cannot start it itself."""

import os
import signal
import sys
from argparse import Namespace

from adaptor import names
from adaptor.cli.verbs import Verbs


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    wireguard = verbs.add_parser(
        "wireguard",
        help="keep wireguard-go running where the adaptor is a container; else the adaptor starts it by itself",
        description="With network.encryption = required, on a node whose kernel has no WireGuard: wireguard-go for the "
        f"device {names.WIREGUARD_DEVICE}, in the foreground. The adaptor finds it and gives it its key; what is started "
        "in an adaptor's container would end with that, and every pod's network. Its end is noticed, and the next one "
        "gets the same key. Where the kernel has WireGuard this waits, and does nothing.",
    )
    wireguard.add_argument(
        "--kind",
        choices=("auto", "userspace"),
        default="auto",
        help="as network.wireguard: wireguard-go only where the kernel has none, or always (default: %(default)s)",
    )
    wireguard.set_defaults(run=run)


def run(arguments: Namespace) -> None:
    """Becomes wireguard-go. Raises Unavailable, saying what it needs."""
    from adaptor.errors import Unavailable
    from adaptor.podnet import wireguard_choice
    from adaptor.podnet.wireguard_device import PATH, PROGRAM

    if arguments.kind == "auto" and not wireguard_choice.kernel_wants():
        print("the kernel has WireGuard: nothing to do", file=sys.stderr, flush=True)
        ending = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, ending)
        signal.sigwait(ending)
        return
    if why := wireguard_choice.userspace_wants():
        raise Unavailable(why)
    # In the foreground: this process, and its signals, are wireguard-go's from here on.
    environment = {"PATH": PATH, "LOG_LEVEL": "error"}
    os.execvpe(PROGRAM, [PROGRAM, "--foreground", names.WIREGUARD_DEVICE], environment)
