"""`peerpods image formats` and `peerpods image upload`."""

import argparse
import os
from pathlib import Path
from typing import Final

from adaptor import names
from adaptor.cli.verbs import Verbs

_FORMS: Final = ("qcow2", "vhd", "gcp", "direct")
_CLOUDS: Final = ("aws", "azure", "gcp")
_UPLOAD: Final = """\
Makes an image at the cloud of a disk that `peerpods image build` built, with the settings and credentials of a node. What
is there already is found by the disk's hash, and an upload that was cut off goes on where it was: run the same again.
The id goes to standard output, everything else to standard error.
"""
_EPILOG: Final = "docs/image-upload.md says which rights this needs, what it makes, and how to remove that."


def add_parsers(verbs: Verbs) -> None:
    """Declare them."""
    formats = verbs.add_parser(
        "formats",
        help="make other forms of a built disk",
        description="qcow2: by qemu-img. vhd: as Azure takes it. gcp: as Compute Engine takes it, a disk of whole GiB. "
        "direct: kernel and initrd, for hypervisors that load them themselves. Each is the same bytes every time.",
    )
    _add_directory(formats)
    formats.add_argument("--form", action="append", choices=_FORMS, required=True, help="may be repeated")
    formats.add_argument("--output", type=Path, metavar="DIR", help="where to (default: beside the disk)")
    formats.set_defaults(run=run_formats)
    upload = verbs.add_parser(
        "upload",
        help="make an image at a cloud",
        description=_UPLOAD,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_directory(upload)
    upload.add_argument("--cloud", choices=_CLOUDS, help="default: the configured one")
    upload.add_argument("--config", metavar="FILE", help=f"settings (default: {names.CONFIG_FILE} if there is one)")
    upload.add_argument("--into", metavar="PLACE", default="", help="Azure: GALLERY/DEFINITION; GCP: the bucket")
    upload.add_argument("--name", help="what people see at the cloud (default: peerpods-podvm-PROFILE-HASH)")
    upload.add_argument("--json", action="store_true", help="for programs")
    upload.set_defaults(run=run_upload)


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the directory that `peerpods image build` made")


def run_formats(arguments: argparse.Namespace) -> int:
    """Make them. Raises: InvalidRequest, Unavailable."""
    from adaptor.cli import images

    return images.make_forms(arguments.image, arguments.form, arguments.output or arguments.image)


def run_upload(arguments: argparse.Namespace) -> int:
    """Find the image or make it. Raises: ConfigError, InvalidRequest, Unavailable."""
    import asyncio

    from adaptor.cli import images

    name = arguments.name or ""
    wanted = images.Wanted(arguments.image, arguments.cloud or "", arguments.config, arguments.into, name)
    return asyncio.run(images.upload(wanted, os.environ, as_json=arguments.json))
