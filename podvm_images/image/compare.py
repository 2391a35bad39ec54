"""What two images differ in, in words; pure."""

from collections.abc import Iterator, Mapping
from typing import Final

from podvm_images.image.measurements import Image, Part

_REGISTERS: Final = (
    ("pcr4", "PCR 4 (which executables were started)"),
    ("pcr11", "PCR 11 (the UKI's sections)"),
    ("pcr12", "PCR 12 (what was put in from outside)"),
)
_FILES: Final = (
    ("root", "the root file system (root.erofs)"),
    ("verity", "the root's hashes (root.verity)"),
    ("uki", "the UKI (podvm.efi)"),
    ("disk", "the whole disk (podvm.raw)"),
)
_MEANINGS: Final = {
    ".linux": "the kernel",
    ".initrd": "the initrd",
    ".cmdline": "the kernel's command line",
    ".osrel": "the system's name and version",
    ".uname": "the kernel's version",
    ".sbat": "the stub's generation",
    ".text": "the stub's code",
}


def differences(first: Image, second: Image) -> list[str]:
    """One sentence each, what is told apart in a boot first; none when they are the same in all that both tell."""
    return [
        *_words(first.command_line, second.command_line),
        *_sections(first.sections, second.sections),
        *_values("root hash", first.root_hash, second.root_hash),
        *(line for name, title in _FILES for line in _values(title, getattr(first, name), getattr(second, name))),
        *(line for name, title in _REGISTERS for line in _values(title, getattr(first, name), getattr(second, name))),
        *_other_bank(first, second),
        *_launches(first.launches, second.launches),
    ]


def untold(first: Image, second: Image) -> list[str]:
    """What only one of them tells, and is therefore not compared."""
    names = [(name, title) for name, title in (*_FILES, ("root_hash", "the root hash"))]
    return [title for name, title in names if bool(getattr(first, name)) != bool(getattr(second, name))]


def same_when_booted(first: Image, second: Image) -> bool:
    """No TPM and no dm-verity could tell them apart: the disks' empty parts at most are different."""
    return (first.pcr4, first.pcr11, first.pcr12, first.root_hash) == (
        second.pcr4,
        second.pcr11,
        second.pcr12,
        second.root_hash,
    )


def _words(first: str, second: str) -> Iterator[str]:
    """Of a command line: which words only one has; their order where that is all."""
    if first == second:
        return
    one, other = first.split(), second.split()
    only_one, only_other = [w for w in one if w not in other], [w for w in other if w not in one]
    if not only_one and not only_other:
        yield "the kernel's command lines have the same words in another order, or other spaces"
        return
    shown = [
        f"only the {which} has {' '.join(words)}"
        for which, words in (("first", only_one), ("second", only_other))
        if words
    ]
    yield f"the kernel's command line: {'; '.join(shown)}"


def _sections(first: Mapping[str, Part], second: Mapping[str, Part]) -> Iterator[str]:
    for name in sorted(first.keys() | second.keys()):
        one, other = first.get(name), second.get(name)
        title = f"section {name}" + (f" ({_MEANINGS[name]})" if name in _MEANINGS else "")
        if one is None or other is None:
            yield f"{title}: only the {'first' if other is None else 'second'} UKI has it"
        elif one != other:
            yield f"{title}: {one.bytes} bytes, sha256 {one.sha256} against {other.bytes} bytes, {other.sha256}"


def _values(title: str, one: str, other: str) -> Iterator[str]:
    if one and other and one != other:
        yield f"{title}: {one} against {other}"


def _other_bank(first: Image, second: Image) -> Iterator[str]:
    """SHA-384 says nothing new of an image; of measurements that somebody wrote it may."""
    for name, title in _REGISTERS:
        one, other = first.sha384.get(name, ""), second.sha384.get(name, "")
        if one != other and getattr(first, name) == getattr(second, name):
            yield f"{title} in SHA-384, which is the same in SHA-256: {one} against {other}"


def _launches(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[str]:
    for machine in sorted(first.keys() & second.keys()):
        yield from _values(f"SNP launch measurement of {machine}", first[machine], second[machine])
