"""`peerpods demo`: see a pod VM come and go."""

from argparse import Namespace

from adaptor.cli.verbs import Verbs


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    demo = verbs.add_parser(
        "demo",
        help="see one pod's VM come and go on a simulated cloud; needs no account and leaves nothing behind",
        description="Starts a simulated EC2, the adaptor with its real AWS provider, and the relay, all inside private "
        "namespaces; then plays kata's shim for one pod, shows every phase with its time, and proves at the end that "
        "nothing is left. Works as root, and as an ordinary user where the kernel allows user namespaces.",
    )
    demo.add_argument("--boot-delay", default="2s±1s", help="how long simulated VMs boot (default: %(default)s)")
    demo.add_argument("--pods", type=int, default=1, metavar="N", help="pods, one after the other (default: 1)")
    demo.add_argument("--plain", action="store_true", help="one line per event instead of a live display")
    demo.add_argument("--keep-logs", metavar="DIR", help="copy the processes' logs there")
    demo.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """The whole demo; 0 only if every call succeeded and nothing was left."""
    from adaptor.demo import enter

    enter.namespaces()
    from adaptor.demo import script

    return script.main(arguments)
