"""measurements.json, Trustee's messages, and what two images differ in."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from podvm_images.image import compare, finished, measurements
from podvm_images.image.measurements import Image, MeasurementsFault, Part, of_uki, parameter, rvps_message, to_add
from tests.unit.image.disks import KERNEL, small
from tests.unit.image.efi import executable

LINE = b"quiet podvm.roothash=ab podvm.salt=cd podvm.blocks=7"
SECTIONS = [
    (".text", b"stub" * 200), (".sbat", b"sbat,1\n"), (".osrel", b"ID=podvm\n"), (".cmdline", LINE), (".uname", b"6.12"),
    (".linux", KERNEL), (".initrd", b"cpio" * 99),
]  # fmt: skip


def uki(**changes: bytes) -> Image:
    return of_uki(executable([(name, changes.get(name[1:], content)) for name, content in SECTIONS]))


KNOWN = uki()


def test_a_synthetic_uki_measures_what_it_always_did() -> None:
    """Golden, computed by another program; a change of these is a change for every operator."""
    assert (KNOWN.pcr4, KNOWN.pcr11, KNOWN.pcr12) == (
        "de1076a60ac4e3f224672a1518bec39b9df8955ecdf1083862d8203c5883e0c3",
        "d07b63bff0a30b91a3f377be687e059f1fac11a342a0c286cd3f8d85b3049b67",
        "00" * 32,
    )
    assert {len(bytes.fromhex(value)) for value in KNOWN.sha384.values()} == {48}
    assert (KNOWN.root_hash, KNOWN.kernel_version, KNOWN.command_line) == ("ab", "6.12", LINE.decode())


@pytest.mark.parametrize(("line", "value"), [("a=1 b=2", "1"), ("a=1 a=3", "3"), ("aa=2", ""), ("", ""), ("b=a=4", "")])
def test_a_parameters_last_value_counts(line: str, value: str) -> None:
    assert parameter(line, "a") == value


def test_the_file_is_read_back_as_it_was_written() -> None:
    image = replace(KNOWN, launches={"OVMF.fd, 2 x EPYC-Milan, qemu": "5e" * 48}, disk="dd" * 32)
    assert measurements.parse(measurements.to_json(image), "here") == image
    assert measurements.to_json(image) == measurements.to_json(replace(image))


def edited(**changes: object) -> str:
    return json.dumps(json.loads(measurements.to_json(KNOWN)) | changes)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "here is not JSON"),
        ("[]", "here holds no measurements of version 1"),
        (edited(version=2), "measure the image anew"),
        (edited(strange=1), "missing, or not known here: strange"),
        (edited(pcr4=4), "here: pcr4 is 4"),
        (edited(pcr4="44"), "no SHA-256 in hex"),
        (edited(sections={".linux": {"size": 4}}), "something else than bytes and sha256"),
        (edited(pcr11="ee" * 32), "its reference values are not those of its measurements: it was edited"),
        (edited(reference_values={}), "it was edited"),
    ],
)
def test_a_file_that_cannot_be_trusted_to_be_ours_is_refused(text: str, why: str) -> None:
    with pytest.raises(MeasurementsFault, match=why):
        measurements.parse(text, "here")


def sent(image: Image, platform: str) -> dict[str, object]:
    message = json.loads(rvps_message([image], platform))
    payload = json.loads(base64.b64decode(message["payload"]))
    assert isinstance(payload, dict)
    return payload


@pytest.mark.parametrize(("platform", "prefix"), [("az-snp-vtpm", "snp"), ("az-tdx-vtpm", "tdx"), ("tpm", "tpm")])
def test_registers_go_out_as_lists_for_trustees_policy_asks_whether_a_value_is_in_them(
    platform: str, prefix: str
) -> None:
    assert sent(KNOWN, platform) == {
        f"{prefix}_pcr04": [KNOWN.pcr4],
        f"{prefix}_pcr11": [KNOWN.pcr11],
        f"{prefix}_pcr12": ["00" * 32],
    }


def test_snp_gets_the_launch_measurements_of_all_sizes_of_vm_and_nothing_without_a_firmware() -> None:
    image = replace(KNOWN, launches={"four": "44" * 48, "two": "22" * 48})
    assert sent(image, "snp") == {"snp_launch_measurement": ["22" * 48, "44" * 48]}
    assert "snp_launch_measurement" not in to_add(image)["snp"]
    assert "snp_launch_measurement" in to_add(KNOWN)["snp"]
    with pytest.raises(
        MeasurementsFault, match=r"nothing that snp attests follows from the image alone. Register: snp_launch"
    ):
        rvps_message([KNOWN], "snp")


def test_one_message_accepts_the_old_image_and_the_new() -> None:
    other = uki(initrd=b"new")
    message = json.loads(rvps_message([KNOWN, other, KNOWN], "tpm"))
    payload = json.loads(base64.b64decode(message["payload"]))
    assert payload["tpm_pcr11"] == sorted([KNOWN.pcr11, other.pcr11])
    assert payload["tpm_pcr12"] == ["00" * 32]


def test_for_tdx_there_is_nothing_to_send_and_it_says_what_is_needed() -> None:
    with pytest.raises(MeasurementsFault, match=r"nothing that tdx attests .* rtmr_1, rtmr_2"):
        rvps_message([KNOWN], "tdx")
    with pytest.raises(MeasurementsFault, match="'sgx' is no platform that is known here: az-snp-vtpm, "):
        rvps_message([KNOWN], "sgx")


# -- compare ----------------------------------------------------------------------------------------


def test_an_image_differs_in_nothing_from_itself() -> None:
    assert compare.differences(KNOWN, uki()) == []
    assert compare.same_when_booted(KNOWN, uki())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"cmdline": LINE.replace(b"quiet", b"debug shell")},
            "the kernel's command line: only the first has quiet; only the second has debug shell",
        ),
        ({"cmdline": LINE + b" podvm.x=1"}, "the kernel's command line: only the second has podvm.x=1"),
        ({"cmdline": b" ".join(reversed(LINE.split()))}, "the same words in another order"),
        ({"initrd": b"other"}, "section .initrd (the initrd): 396 bytes, sha256 "),
        ({"sbat": b"sbat,2\n"}, "section .sbat (the stub's generation): 7 bytes"),
        ({"text": b"other stub"}, "section .text (the stub's code): 800 bytes"),
        ({"linux": executable([(".text", b"other")])}, "section .linux (the kernel): "),
    ],
)
def test_what_changed_in_a_uki_is_named_first_and_then_what_follows(changes: dict[str, bytes], said: str) -> None:
    other = uki(**changes)
    found = compare.differences(KNOWN, other)
    assert said in found[0]
    assert found[-1].startswith("PCR 4 " if "text" in changes else "PCR 11 ")
    assert any(line.startswith("the UKI (podvm.efi): ") for line in found)
    assert not compare.same_when_booted(KNOWN, other)


def test_a_section_that_only_one_has_is_named() -> None:
    fewer = replace(KNOWN, sections={name: part for name, part in KNOWN.sections.items() if name != ".sbat"})
    assert compare.differences(KNOWN, fewer) == ["section .sbat (the stub's generation): only the first UKI has it"]
    more = replace(KNOWN, sections={**KNOWN.sections, ".ucode": Part(1, "00" * 32)})
    assert compare.differences(KNOWN, more) == ["section .ucode: only the second UKI has it"]


def test_another_root_shows_in_its_hashes_in_the_command_line_and_in_the_registers(tmp_path: Path) -> None:
    one, other = (
        finished.measured(small(tmp_path / text, root=text.encode().ljust(8192, b"!"))) for text in ("a", "b")
    )
    titles = [line.partition(":")[0] for line in compare.differences(one, other)]
    assert titles == [
        "the kernel's command line", "section .cmdline (the kernel's command line)", "root hash",
        "the root file system (root.erofs)", "the root's hashes (root.verity)", "the UKI (podvm.efi)",
        "the whole disk (podvm.raw)", "PCR 4 (which executables were started)", "PCR 11 (the UKI's sections)",
    ]  # fmt: skip


def test_what_only_one_tells_is_not_compared_and_said_to_be_so() -> None:
    disk = replace(KNOWN, root="11" * 32, disk="22" * 32)
    assert compare.differences(KNOWN, disk) == []
    assert compare.untold(KNOWN, disk) == ["the root file system (root.erofs)", "the whole disk (podvm.raw)"]


def test_another_disk_around_the_same_parts_boots_the_same() -> None:
    one, other = replace(KNOWN, disk="11" * 32), replace(KNOWN, disk="22" * 32)
    assert compare.differences(one, other) == [f"the whole disk (podvm.raw): {'11' * 32} against {'22' * 32}"]
    assert compare.same_when_booted(one, other)


def test_a_register_that_differs_in_one_bank_only_is_told() -> None:
    forged = replace(KNOWN, sha384={**KNOWN.sha384, "pcr4": "44" * 48})
    (found,) = compare.differences(KNOWN, forged)
    assert found.startswith("PCR 4 (which executables were started) in SHA-384, which is the same in SHA-256: ")


def test_launch_measurements_are_compared_for_the_same_machine() -> None:
    one, other = replace(KNOWN, launches={"m": "1", "n": "1"}), replace(KNOWN, launches={"m": "2", "o": "1"})
    assert compare.differences(one, other) == ["SNP launch measurement of m: 1 against 2"]
