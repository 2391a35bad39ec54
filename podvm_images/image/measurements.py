"""measurements.json: what an image is known by, and what of it Trustee is told per platform; pure.

Everything follows from the image's bytes: two that read it come to the same file.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from podvm_images.image import measure
from podvm_images.image.pe import Executable

FILE: Final = "measurements.json"
VERSION: Final = 1
_TABLES: Final = ("sections", "launches", "sha384")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
# By the words with which Trustee names what attests: what we cannot know and its default policy asks for.
TO_ADD: Final[Mapping[str, Mapping[str, str]]] = {
    "az-snp-vtpm": {
        "measurement": "base64 of the SNP launch measurement: Azure's own firmware, which changes; take it from a VM you trust",
        "tcb_bootloader, tcb_microcode, tcb_snp, tcb_tee": "as strings: the firmware versions of the hosts you accept",
        "smt_enabled, tsme_enabled, abi_major, abi_minor, single_socket, smt_allowed": "as strings: of the same VM",
    },
    "az-tdx-vtpm": {
        "mr_td": "hex: Azure's own firmware; take it from a VM you trust",
        "xfam": "hex: of the same VM",
    },
    "snp": {
        "snp_launch_measurement": "hex: give --ovmf, --vcpus and --vcpu-type of your VMs, or take your cloud's",
        "snp_bootloader, snp_microcode, snp_snp_svn, snp_tee_svn": "as numbers: the versions of the hosts you accept",
        "snp_smt_enabled, snp_tsme_enabled, snp_guest_abi_major, snp_guest_abi_minor, snp_single_socket, snp_smt_allowed": (
            "single values, not lists: numbers and booleans of a VM you trust"
        ),
    },
    "tdx": {
        "mr_td, xfam": "hex: the cloud's firmware; Google signs its own",
        "rtmr_1, rtmr_2": "hex: of a VM with this image and this firmware that you trust; they hold firmware events, too",
        "tdvfkernel, tdvfkernelparams": "only where the host gives kernel and command line itself (no UKI); single values",
    },
    "tpm": {"trusted_aks": "base64 DER: the attestation keys of your VMs' TPMs; nothing binds them to a TEE"},
}


class MeasurementsFault(ValueError):
    """A measurements.json that cannot be used, or values that do not exist."""


@dataclass(frozen=True, slots=True)
class Part:
    """One section of the UKI, by its name there. `bytes`: without padding."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Image:
    """What is known of an image; "" for what a UKI alone does not tell. Hashes are SHA-256 in hex."""

    pcr4: str
    pcr11: str
    pcr12: str
    command_line: str
    kernel_version: str
    root_hash: str  # of dm-verity
    sections: Mapping[str, Part]
    uki: str
    sha384: Mapping[str, str]  # pcr4, pcr11 and pcr12 of that bank: AWS's attestation documents have it
    root: str = ""  # the file system, as root.erofs holds it
    verity: str = ""  # its hashes, as root.verity
    disk: str = ""  # the raw disk; clouds' forms of it are longer and have another one
    # "EPYC-Milan, 2 vCPUs, QEMU" -> SNP launch measurement (hex), where the firmware was given.
    launches: Mapping[str, str] = field(default_factory=dict)


def of_uki(data: bytes) -> Image:
    """Raises: ValueError when it is none."""
    executable = Executable.parse(data)
    values = measure.measure(executable)
    sections = executable.sections()
    line = sections[".cmdline"].rstrip(b"\0\n").decode("utf-8", "replace")
    return Image(
        pcr4=values.pcr4,
        pcr11=values.pcr11,
        pcr12=values.pcr12,
        command_line=line,
        kernel_version=sections.get(".uname", b"").rstrip(b"\0").decode("ascii", "replace"),
        root_hash=parameter(line, "podvm.roothash") or parameter(line, "roothash"),
        sections={name: Part(len(content), _sha256(content)) for name, content in sections.items()},
        uki=_sha256(data),
        sha384=dataclasses.asdict(measure.measure(executable, "sha384")),
    )


def parameter(line: str, name: str) -> str:
    """Of a kernel's command line; "" when it is not there. The last one counts, as for the initrd."""
    return next((word.partition("=")[2] for word in reversed(line.split()) if word.startswith(f"{name}=")), "")


def reference_values(image: Image) -> dict[str, dict[str, list[str]]]:
    """Per platform, by the ids of Trustee's default policy and in its forms: lists of what is accepted.

    The policy asks for PCR 11 alone; `*_pcr04` and `*_pcr12` are for the two lines that docs/measurement.md adds to it.
    """
    registers = {"pcr04": image.pcr4, "pcr11": image.pcr11, "pcr12": image.pcr12}
    found: dict[str, dict[str, list[str]]] = {
        platform: {f"{prefix}_{name}": [value] for name, value in registers.items()}
        for platform, prefix in (("az-snp-vtpm", "snp"), ("az-tdx-vtpm", "tdx"), ("tpm", "tpm"))
    }
    found["snp"] = {"snp_launch_measurement": sorted(set(image.launches.values()))} if image.launches else {}
    found["tdx"] = {}
    return found


def to_add(image: Image) -> dict[str, dict[str, str]]:
    """Per platform: the values that the operator must find, and where."""
    known = {platform: values.keys() for platform, values in reference_values(image).items()}
    return {
        platform: {name: where for name, where in missing.items() if name not in known[platform]}
        for platform, missing in TO_ADD.items()
    }


def rvps_message(images: Sequence[Image], platform: str) -> bytes:
    """What Trustee's reference value provider is sent so that each of `images` is accepted.

    Raises: MeasurementsFault when nothing is known for `platform`.
    """
    if platform not in TO_ADD:
        raise MeasurementsFault(f"{platform!r} is no platform that is known here: {', '.join(TO_ADD)}")
    accepted: dict[str, set[str]] = {}
    for image in images:
        for name, values in reference_values(image)[platform].items():
            accepted.setdefault(name, set()).update(values)
    if not accepted:
        missing = "; ".join(f"{name} ({where})" for name, where in TO_ADD[platform].items())
        raise MeasurementsFault(f"nothing that {platform} attests follows from the image alone. Register: {missing}")
    return measure.rvps_message({name: sorted(values) for name, values in accepted.items()})


def to_json(image: Image) -> str:
    """The file's text, the same for the same image."""
    fields = {"version": VERSION, **dataclasses.asdict(image)}
    fields |= {"reference_values": reference_values(image), "to_add": to_add(image)}
    return json.dumps(fields, indent=2, sort_keys=True) + "\n"


def parse(text: str, where: str) -> Image:
    """Raises: MeasurementsFault, which begins with `where`; also for values that do not follow from the others."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise MeasurementsFault(f"{where} is not JSON: {error}") from None
    if not isinstance(fields, dict) or fields.pop("version", None) != VERSION:
        raise MeasurementsFault(f"{where} holds no measurements of version {VERSION}: measure the image anew")
    values, _ = fields.pop("reference_values", None), fields.pop("to_add", None)
    names = {each.name for each in dataclasses.fields(Image)}
    if fields.keys() != names:
        strange = ", ".join(sorted(fields.keys() ^ names))
        raise MeasurementsFault(f"{where}: missing, or not known here: {strange}")
    for name, value in fields.items():
        if type(value) is not (dict if name in _TABLES else str):
            raise MeasurementsFault(f"{where}: {name} is {value!r}")
    for name in ("pcr4", "pcr11", "pcr12", "uki"):
        if not _HASH.fullmatch(fields[name]):
            raise MeasurementsFault(f"{where}: {name} is {fields[name]!r}, no SHA-256 in hex")
    try:
        image = Image(**{**fields, "sections": {name: Part(**part) for name, part in fields["sections"].items()}})
    except TypeError:
        raise MeasurementsFault(f"{where}: a section has something else than bytes and sha256") from None
    if values != reference_values(image):
        raise MeasurementsFault(f"{where}: its reference values are not those of its measurements: it was edited")
    return image


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
