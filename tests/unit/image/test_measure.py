"""PCR 4 and 11 of a UKI, beside the same sums written out by hand."""

import base64
import hashlib
import json

import pytest

from podvm_images.image.measure import measure, rvps_message
from podvm_images.image.pe import Executable
from tests.unit.image.efi import executable

KERNEL = executable([(".text", b"kernel" * 300)])
SECTIONS = [(".osrel", b"ID=podvm\n"), (".cmdline", b"roothash=00"), (".linux", KERNEL), (".initrd", b"cpio" * 99)]


def uki(sections: list[tuple[str, bytes]] | None = None, checksum: int = 0, signature: bytes = b"") -> Executable:
    return Executable.parse(executable(sections or SECTIONS, checksum=checksum, signature=signature))


def extend(*events: bytes) -> str:
    register = bytes(32)
    for digest in events:
        register = hashlib.sha256(register + digest).digest()
    return register.hex()


def h(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_pcr_11_has_each_section_by_name_and_content_in_the_stubs_order_not_in_the_files() -> None:
    by_hand = extend(
        h(b".linux\0"), h(KERNEL), h(b".osrel\0"), h(b"ID=podvm\n"), h(b".cmdline\0"), h(b"roothash=00"),
        h(b".initrd\0"), h(b"cpio" * 99),
    )  # fmt: skip
    assert measure(uki()).pcr11 == by_hand
    assert measure(uki(SECTIONS[::-1])).pcr11 == by_hand


def test_a_section_that_the_stub_does_not_know_is_not_in_pcr_11() -> None:
    assert measure(uki([*SECTIONS, (".text", b"the stub")])).pcr11 == measure(uki()).pcr11


def test_another_command_line_is_another_pcr_11_and_another_pcr_4() -> None:
    changed = [(name, b"roothash=01" if name == ".cmdline" else content) for name, content in SECTIONS]
    before, after = measure(uki()), measure(uki(changed))
    assert before.pcr11 != after.pcr11
    assert before.pcr4 != after.pcr4
    assert before.pcr12 == after.pcr12 == "00" * 32


def test_pcr_4_has_the_boot_managers_word_a_separator_the_uki_and_its_kernel() -> None:
    image, kernel = executable(SECTIONS), executable([(".text", b"kernel" * 300)])

    def authenticode(data: bytes) -> bytes:  # of one without a signature: all but the checksum and the table's entry
        optional = 64 + 4 + 20
        checksum, entry = optional + 64, optional + 112 + 4 * 8
        return h(data[:checksum] + data[checksum + 4 : entry] + data[entry + 8 :])

    action = h(b"Calling EFI Application from Boot Option")
    assert measure(uki()).pcr4 == extend(action, h(bytes(4)), authenticode(image), authenticode(kernel))


def test_a_bank_of_another_hash_has_the_same_events_in_that_hash() -> None:
    register = bytes(48)
    for event in (b".linux\0", KERNEL, b".cmdline\0", b"roothash=00"):
        register = hashlib.sha384(register + hashlib.sha384(event).digest()).digest()
    found = measure(uki([(".cmdline", b"roothash=00"), (".linux", KERNEL)]), "sha384")
    assert (found.pcr11, found.pcr12) == (register.hex(), "00" * 48)


def test_signing_an_image_changes_no_measurement() -> None:
    signed = uki(checksum=0xDEADBEEF, signature=b"a certificate table" * 8)
    assert signed.authenticode() == uki().authenticode()
    assert measure(signed) == measure(uki())


def test_a_changed_byte_anywhere_in_a_section_changes_the_hash() -> None:
    data = bytearray(executable(SECTIONS))
    data[-1] ^= 1  # in the padding: firmware hashes that, too
    assert Executable.parse(bytes(data)).authenticode() != uki().authenticode()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no EFI executable"),
        (b"MZ" + bytes(100), "no EFI executable"),
        (executable(SECTIONS)[:-600], "truncated"),
    ],
)
def test_a_file_that_is_none_is_said_to_be_none(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Executable.parse(data)


def test_an_executable_without_kernel_and_command_line_is_no_uki() -> None:
    with pytest.raises(ValueError, match=r"no section \.linux and no \.cmdline: it is no unified kernel image"):
        measure(uki([(".text", b"x")]))


def test_trustees_message_holds_the_values_in_one_order() -> None:
    values = {"tpm_pcr11": ["11"], "snp_pcr11": ["11"]}
    message = json.loads(rvps_message(values))
    assert (message["version"], message["type"]) == ("0.1.0", "sample")
    assert json.loads(base64.b64decode(message["payload"])) == values
    assert rvps_message(values) == rvps_message(dict(reversed(list(values.items()))))
