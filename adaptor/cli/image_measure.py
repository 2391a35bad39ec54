"""`peerpods image measure` and `verify`: what an image is known by, and whether two are the same."""

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adaptor.cli.verbs import Verbs
from adaptor.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from podvm_images.image import snp
    from podvm_images.image.measurements import Image

_DIFFERENT: Final = 1
_PLATFORMS: Final = ("az-snp-vtpm", "az-tdx-vtpm", "snp", "tdx", "tpm")
_MEASURE: Final = """\
Reads IMAGE (a directory of `peerpods image build`; a disk: raw, VHD, qcow2, Compute Engine's tar.gz; or a UKI alone) and
computes what a TPM will hold after booting it. Every block of a disk's root is checked against the hash in the UKI's
command line; what is damaged or truncated is refused. docs/measurement.md says what to register where.
"""
_VERIFY: Final = """\
Says in words what two images differ in. Each is an image as `measure` takes it, or a measurements.json that was published.

exit status:
  0  they are the same in all that both tell
  1  they differ, or one of them cannot be read
"""


def add_parsers(verbs: Verbs) -> None:
    """Declare both."""
    measure = verbs.add_parser(
        "measure",
        help="recompute PCRs, root hash and hashes from a finished image",
        description=_MEASURE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    measure.add_argument("image", metavar="IMAGE", type=Path)
    form = measure.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as measurements.json, which verify reads")
    form.add_argument(
        "--rvps", metavar="PLATFORM", choices=_PLATFORMS, help=f"Trustee's message: {', '.join(_PLATFORMS)}"
    )
    measure.add_argument(
        "--also",
        metavar="IMAGE",
        type=Path,
        action="append",
        default=[],
        help="with --rvps: accept this one, too (or its measurements.json); Trustee forgets what it was told before",
    )
    snp = measure.add_argument_group("SNP's launch measurement (needs the package sev-snp-measure)")
    snp.add_argument("--ovmf", metavar="FILE", type=Path, help="the firmware that VMs are started with")
    snp.add_argument("--vcpus", metavar="N", type=int, action="append", help="of the VM; again for other sizes")
    snp.add_argument("--vcpu-type", metavar="TYPE", help="QEMU's name of it: EPYC-Milan, EPYC-Genoa, ...")
    snp.add_argument("--vmm", choices=("qemu", "aws", "gcp"), default="qemu", help="whose VM (default: %(default)s)")
    snp.add_argument("--direct", action="store_true", help="QEMU gives kernel and initrd; IMAGE must be a directory")
    measure.set_defaults(run=run_measure)
    verify = verbs.add_parser(
        "verify",
        help="say what two images differ in, or an image and published measurements",
        description=_VERIFY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument("first", metavar="A", type=Path)
    verify.add_argument("second", metavar="B", type=Path)
    verify.add_argument("--json", action="store_true", help="for programs")
    verify.set_defaults(run=run_verify)


def run_measure(arguments: Namespace) -> int:
    """Measure and print. Raises: InvalidRequest, Unavailable."""
    if arguments.also and not arguments.rvps:
        raise InvalidRequest("--also is for Trustee's message: give --rvps PLATFORM with it")
    with _readable():
        from podvm_images.image import finished, measurements

        image = finished.measured(arguments.image)
        image = replace(image, launches=_launches(arguments))
        if arguments.rvps:
            images = [image, *map(finished.read, arguments.also)]
            print(measurements.rvps_message(images, arguments.rvps).decode())
        elif arguments.json:
            sys.stdout.write(measurements.to_json(image))
        else:
            print("\n".join(_lines(image)))
        if arguments.rvps and (missing := measurements.to_add(image)[arguments.rvps]):
            lines = "".join(f"\n  {name}: {where}" for name, where in missing.items())
            print(f"peerpods: the default policy asks for more, which you must register:{lines}", file=sys.stderr)
    return 0


def run_verify(arguments: Namespace) -> int:
    """Compare and print. Raises: InvalidRequest, Unavailable."""
    with _readable():
        from podvm_images.image import compare, finished

        first, second = finished.read(arguments.first), finished.read(arguments.second)
    found, untold = compare.differences(first, second), compare.untold(first, second)
    booted = compare.same_when_booted(first, second)
    if arguments.json:
        answer = {"same": not found, "same_when_booted": booted, "differences": found, "not_compared": untold}
        print(json.dumps(answer, indent=2))
    else:
        print("\n".join(_verdict(found, untold, booted)))
    return _DIFFERENT if found else 0


def _verdict(found: list[str], untold: list[str], booted: bool) -> Iterator[str]:
    if not found:
        yield "they are the same"
    else:
        yield f"they differ{', but would measure the same when booted' if booted else ''}:"
        yield from (f"  {line}" for line in found)
    if untold:
        yield f"not compared, for only one of them tells: {', '.join(untold)}"


def _launches(arguments: Namespace) -> dict[str, str]:
    """SNP's, for each number of vCPUs; none without a firmware. Raises: InvalidRequest, ValueError, OSError."""
    given = [arguments.ovmf, arguments.vcpus, arguments.vcpu_type]
    if not any(given) and not arguments.direct:
        return {}
    if not all(given):
        raise InvalidRequest("SNP's launch measurement needs all of --ovmf, --vcpus and --vcpu-type")

    from podvm_images.image import snp

    direct = _direct(arguments.image) if arguments.direct else None
    machines = [snp.Machine(arguments.ovmf, each, arguments.vcpu_type, arguments.vmm) for each in arguments.vcpus]
    return {f"{machine}{', direct' if direct else ''}": snp.launch(machine, direct) for machine in machines}


def _direct(directory: Path) -> "snp.Direct":
    from podvm_images.image import manifest, snp

    if not directory.is_dir():
        raise InvalidRequest("--direct needs the directory of an image: QEMU gives the kernel and the initrd in it")
    made = manifest.parse((directory / manifest.FILE).read_text("utf-8"), str(directory / manifest.FILE))
    return snp.Direct(directory / made.kernel, directory / made.initrd, made.command_line)


def _lines(image: "Image") -> Iterator[str]:
    """For people."""
    rows = [
        ("PCR 4", image.pcr4),
        ("PCR 11", image.pcr11),
        ("PCR 12", image.pcr12),
        ("PCR 4, SHA-384", image.sha384["pcr4"]),
        ("root hash", image.root_hash or "(the command line names none)"),
        ("kernel", image.kernel_version),
        ("command line", image.command_line),
        *((f"SNP launch ({machine})", digest) for machine, digest in image.launches.items()),
        ("sha256 of UKI", image.uki),
        *((f"sha256 of {name}", value) for name, value in (("root", image.root), ("disk", image.disk)) if value),
    ]
    width = max(len(title) for title, _ in rows)
    yield from (f"{title:<{width}}  {value}" for title, value in rows)
    if image.root:
        yield "every block of the root is as its hash says"


@contextmanager
def _readable() -> Iterator[None]:
    """Faults of images, as the command tells them."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Unavailable(f"`peerpods image` needs {error.name}: install peerpods[image]") from error
    except OSError as error:
        raise InvalidRequest(f"{error.filename or 'the image'} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidRequest(str(error)) from error
