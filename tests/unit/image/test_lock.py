"""Lock files: read, written, compared, and refused with everything that is wrong."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podvm_images.image import lock
from podvm_images.image.lock import Lock, LockFault, Package

LIBC = Package("libc6", "2.41-12+deb13u4", "pool/main/g/glibc/libc6_2.41-12+deb13u4_amd64.deb", 2846580, "ab" * 32)
CRUN = Package("crun", "1.21-1", "pool/main/c/crun/crun_1.21-1_amd64.deb", 368640, "cd" * 32)
WHEEL = Package("protobuf", "7.36.2", "protobuf-7.36.2-cp310-abi3-manylinux2014_x86_64.whl", 324512, "ef" * 32)
LOCK = Lock("trixie", "amd64", 1_760_000_000, (CRUN, LIBC))

names = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,20}", fullmatch=True).filter(lambda name: ".." not in name)
packages = st.builds(
    Package,
    name=names,
    version=st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3})?", fullmatch=True),
    path=st.just("pool/main/x/x/x_1_amd64.deb"),
    size=st.integers(1, 1 << 40),
    sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
)
locks = st.builds(
    Lock,
    suite=st.just("trixie"),
    architecture=st.sampled_from(lock.ARCHITECTURES),
    epoch=st.integers(0, 1 << 40),
    packages=st.lists(packages, min_size=1, max_size=5, unique_by=lambda each: each.name).map(
        lambda found: tuple(sorted(found))
    ),
    wheels=st.lists(packages, max_size=3, unique_by=lambda each: each.name).map(
        lambda found: tuple(
            sorted(replace(each, name=f"w{number}", path="x-1-py3-none-any.whl") for number, each in enumerate(found))
        )
    ),
)


@given(locks)
def test_what_is_written_is_read_as_it_was(any_lock: Lock) -> None:
    assert lock.parse(lock.render(any_lock), "lock") == any_lock


def test_the_order_in_the_file_does_not_matter() -> None:
    assert lock.render(replace(LOCK, packages=(LIBC, CRUN))) == lock.render(LOCK)


def test_every_fault_is_told_at_once_with_the_package_it_is_in() -> None:
    text = lock.render(LOCK).replace("ab" * 32, "AB").replace("size = 368640", "size = 0").replace('"amd64"', '"i386"')
    with pytest.raises(LockFault) as caught:
        lock.parse(text, "min.lock")
    said = str(caught.value).splitlines()
    assert all(line.startswith("min.lock: ") for line in said)
    assert len(said) == 3
    assert "architecture 'i386' is none that images are made for (amd64, arm64)" in said[0]
    assert "('crun'): size 0 cannot be one" in said[1]
    assert "('libc6'): sha256 'AB' cannot be one" in said[2]


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("suite", "sweet", "suite is missing"),
        ("epoch = 1760000000", 'epoch = "now"', "epoch is 'now'; it must be int"),
        ("epoch = 1760000000", "epoch = true", "epoch is True; it must be int"),
        ('name = "crun"', 'name = "libc6"', r"\('libc6'\) is there twice"),
        ("pool/main/c/crun/", "pool/../../etc/", "cannot be one"),
        ("pool/main/c/crun/", "/etc/", "cannot be one"),
        ("[[package]]", "[[packages]]", "package is missing"),
        ('version = "1.21-1"', 'version = "1.21-1"\nfrom = "x"', "from is not known here"),
        ("suite =", "suite", "is not TOML"),
    ],
)
def test_a_broken_file_says_what_is_wrong(before: str, after: str, why: str) -> None:
    text = lock.render(LOCK)
    assert before in text
    with pytest.raises(LockFault, match=why):
        lock.parse(text.replace(before, after), "lock")


def test_a_file_without_packages_is_refused() -> None:
    with pytest.raises(LockFault, match="it names no package"):
        lock.parse('suite = "trixie"\narchitecture = "amd64"\nepoch = 0\npackage = []\n', "lock")


def test_what_a_new_lock_brings_is_told_in_a_line_each() -> None:
    newer = replace(CRUN, version="1.22-1", path="pool/main/c/crun/crun_1.22-1_amd64.deb")
    kmod = replace(CRUN, name="kmod", version="34.2-2")
    assert lock.changes(LOCK, replace(LOCK, packages=(newer, kmod))) == [
        "crun: 1.21-1 to 1.22-1",
        "kmod: new, 34.2-2",
        "libc6: gone",
    ]
    assert lock.changes(LOCK, LOCK) == []


def test_another_file_under_the_same_version_is_called_out() -> None:
    (said,) = lock.changes(LOCK, replace(LOCK, packages=(replace(CRUN, sha256="ee" * 32), LIBC)))
    assert "another file than before" in said


def test_a_wheel_may_have_a_packages_name_and_each_is_told_of() -> None:
    both = replace(LOCK, wheels=(replace(WHEEL, name="crun"),))
    assert lock.parse(lock.render(both), "lock") == both
    assert lock.changes(LOCK, both) == ["wheel crun: new, 7.36.2"]


@pytest.mark.parametrize("path", ["../x.whl", "a/x.whl", "pool/x.deb", "x.tar.gz"])
def test_a_wheel_is_a_files_name_and_nothing_else(path: str) -> None:
    with pytest.raises(LockFault, match=r"wheel 1 \('protobuf'\): path .* cannot be one"):
        lock.parse(lock.render(replace(LOCK, wheels=(replace(WHEEL, path=path),))), "lock")
