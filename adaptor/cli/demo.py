"""`peerpods demo`: see a pod VM come and go."""

import argparse
import sys

from adaptor.cli.verbs import Verbs


def add_parser(verbs: Verbs) -> None:
    """Declare it."""
    demo = verbs.add_parser(
        "demo",
        help="see one pod's VM come and go on a simulated cloud; needs no account and leaves nothing behind",
        description="Starts a simulated cloud, the adaptor with that cloud's real provider and SDK, and the relay, all inside private "
        "namespaces; then plays kata's shim for one pod, shows every phase with its time, and proves at the end that "
        "nothing is left. Works as root, and as an ordinary user where the kernel allows user namespaces.",
    )
    demo.add_argument(
        "--cloud",
        choices=("aws", "azure", "gcp"),
        default="aws",
        help="which; azure and gcp need their SDK, as `pip install 'peerpods[sim,azure]'` (default: %(default)s)",
    )
    demo.add_argument(
        "--vmm",
        choices=("qemu", "namespace"),
        default="",
        help="without a cloud, on this machine: qemu: in a real VM (needs qemu-system-x86, no KVM; builds the image first "
        "if there is none); namespace: the same provider without a VM",
    )
    demo.add_argument("--image", metavar="DIR", help="with --vmm qemu: the image (default: the cache's)")
    demo.add_argument("--boot-delay", default="2s±1s", help="how long simulated VMs boot (default: %(default)s)")
    demo.add_argument("--encrypt", action="store_true", help="the pod's traffic to its VM goes through WireGuard")
    demo.add_argument("--plain", action="store_true", help="one line per phase instead of a live display")
    demo.add_argument("--logs", metavar="DIR", help="keep the logs of simcloud, adaptor and relay there")
    demo.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the namespaces are there already
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """The whole demo; 0 only if every call succeeded and nothing was left."""
    image = arguments.image or ""
    if not arguments.inside:
        from adaptor.demo import enter

        if arguments.vmm == "qemu":
            from adaptor.demo import image as images

            image = images.ready(image)
        given = ["--image", image] if image else []
        enter.run([sys.executable, "-m", "adaptor", *sys.argv[1:], *given, "--inside"])
    from adaptor.demo import script

    return script.main(
        "local" if arguments.vmm else arguments.cloud,
        arguments.boot_delay,
        encrypted=arguments.encrypt,
        plain=arguments.plain,
        logs=arguments.logs,
        vmm=arguments.vmm,
        image=image,
    )
