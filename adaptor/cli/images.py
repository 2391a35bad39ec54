"""What `peerpods image formats` and `upload` do and print; apart from their declaration, for this loads a cloud's SDK."""

import asyncio
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adaptor.cli.progress import Bars
from adaptor.config import Config, load
from adaptor.errors import InvalidRequest, Unavailable
from podvm_images.image import formats
from podvm_images.image.manifest import FILE, Manifest, ManifestFault, parse
from providers import registry
from providers.base import ImageFile, Progress, SupportsImages
from providers.errors import InvalidSpec, ProviderError

_ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "arm64"}
_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{1,61}[a-z0-9])")  # what every cloud takes
_READ: Final = 4 << 20  # bytes
# The settings of a node say which image its pods get. Who is about to make the first one has none to say.
_NO_IMAGE_YET: Final = {
    "PODVM_AMI_ID": "ami-00000000",
    "AZURE_IMAGE_ID": "/CommunityGalleries/none/Images/none",
    "PODVM_IMAGE_NAME": "none",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for; empty: as configured, or by default."""

    directory: Path
    cloud: str
    config: str | None
    place: str
    name: str


def make_forms(directory: Path, wanted: Sequence[str], output: Path) -> int:
    """Make each, and print where it is. Raises: InvalidRequest, Unavailable."""
    manifest = _manifest(directory)
    with Bars() as progress:
        raw = directory / manifest.disk
        digest = _checked(raw, manifest, progress) if "vhd" in wanted else ""
        try:
            output.mkdir(parents=True, exist_ok=True)
            for form in wanted:
                _make(form, directory, manifest, digest, output, progress)
        except (formats.FormatFault, OSError) as error:
            raise Unavailable(str(error)) from error
    for form in wanted:
        made = [formats.FORMS[form]] if form in formats.FORMS else [manifest.kernel, manifest.initrd]
        print(*(output / name for name in made), sep="\n")
    return 0


async def upload(wanted: Wanted, env: Mapping[str, str], *, as_json: bool) -> int:
    """Find the image or make it, and print its id. Raises: ConfigError, InvalidRequest, Unavailable."""
    manifest = _manifest(wanted.directory)
    if wanted.name and not _NAME.fullmatch(wanted.name):
        raise InvalidRequest(f"--name {wanted.name}: 3 to 63 of a-z, 0-9 and -, beginning with a letter")
    config = _settings(wanted, env)
    cloud = config.cloud.provider
    opened = _open(cloud, config, wanted.place)
    raw = wanted.directory / manifest.disk
    try:
        with Bars() as progress:
            digest = await asyncio.to_thread(_checked, raw, manifest, progress)
            found = await opened.find(digest)
            if found:
                await opened.tidy(digest)
            image_id = found or await _make_image(opened, wanted, manifest, digest, progress)
    except ProviderError as error:
        raise (InvalidRequest if isinstance(error, InvalidSpec) else Unavailable)(str(error)) from error
    finally:
        await opened.aclose()
    if as_json:
        print(json.dumps({"cloud": cloud, "image": image_id, "digest": digest, "made": not found}, indent=2))
    else:
        said = "was there already, made of the same disk" if found else "is made"
        print(f'the image {said}; have pods use it: {cloud}.image = "{image_id}"', file=sys.stderr)
        print(image_id)
    return 0


async def _make_image(
    opened: SupportsImages, wanted: Wanted, manifest: Manifest, digest: str, progress: Progress
) -> str:
    path = wanted.directory / manifest.disk
    if opened.form != "raw":
        try:
            path = await asyncio.to_thread(
                _make, opened.form, wanted.directory, manifest, digest, wanted.directory, progress
            )
        except (formats.FormatFault, OSError) as error:
            raise Unavailable(str(error)) from error
    name = wanted.name or f"peerpods-podvm-{manifest.profile}-{digest[:12]}"
    return await opened.upload(ImageFile(path, digest, name, _ARCHITECTURES[manifest.architecture]), progress)


def _make(form: str, directory: Path, manifest: Manifest, digest: str, output: Path, progress: Progress) -> Path:
    """One form. Raises: FormatFault, OSError."""
    raw = directory / manifest.disk
    if form == formats.DIRECT:
        formats.direct((directory / manifest.kernel, directory / manifest.initrd), output, progress=progress)
        return output
    target = output / formats.FORMS[form]
    if form == "vhd":
        formats.azure(raw, target, digest=digest, progress=progress)
    elif form == "gcp":
        formats.google(raw, target, progress=progress)
    else:
        formats.qemu(raw, target, progress=progress)
    return target


def _manifest(directory: Path) -> Manifest:
    file = directory / FILE
    try:
        return parse(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{directory} is no image directory ({error}): `peerpods image build` makes one") from None
    except ManifestFault as error:
        raise InvalidRequest(str(error)) from None


def _checked(raw: Path, manifest: Manifest, progress: Progress) -> str:
    """The disk's hash, which must be the one that the build wrote down."""
    whole = hashlib.sha256()
    try:
        size = raw.stat().st_size
        with raw.open("rb") as file:
            while data := file.read(_READ):
                whole.update(data)
                progress("checking the disk", min(file.tell(), size), size)
    except OSError as error:
        raise InvalidRequest(f"cannot read {raw}: {error.strerror}") from None
    stated = dict(manifest.hashes).get(manifest.disk)
    if whole.hexdigest() != stated:
        raise InvalidRequest(
            f"{raw} is not the disk that {FILE} speaks of: its SHA-256 is {whole.hexdigest()}, and {stated} was written"
            " down. Build the image anew"
        )
    return whole.hexdigest()


def _settings(wanted: Wanted, env: Mapping[str, str]) -> Config:
    chosen = {"CLOUD_PROVIDER": wanted.cloud} if wanted.cloud else {}
    return load(wanted.config, {**_NO_IMAGE_YET, **env, **chosen})


def _open(cloud: str, config: Config, place: str) -> SupportsImages:
    try:
        return registry.open_images(cloud, config.settings, place)
    except KeyError:
        raise InvalidRequest(f"images cannot be made at {cloud} from here") from None
    except ModuleNotFoundError as error:
        raise Unavailable(str(error)) from error
    except InvalidSpec as error:
        raise InvalidRequest(str(error)) from None
