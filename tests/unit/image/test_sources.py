"""Where packages come from: the host's own apt, in both of its forms, or a mirror that is named."""

import pytest

from podvm_images.image import sources
from podvm_images.image.faults import BuildFault
from podvm_images.image.sources import KEYRING, Source

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
 bookworm-backports
Components: main contrib
Signed-By: /etc/keys/mine.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://other.example/apt
Suites: stable
Components: main
"""
ONE_LINE = """\
deb http://mirror.example/debian bookworm main contrib
deb [arch=amd64 signed-by=/etc/keys/mine.gpg] https://two.example/debian bookworm-updates main # near
deb http://mirror.example/debian bookworm-proposed-updates main
deb-src http://mirror.example/debian bookworm main
# deb http://off.example/debian bookworm main
deb http://extra.example/debian bookworm contrib
"""


def test_the_hosts_mirror_is_asked_for_the_images_suite() -> None:
    assert sources.of_host({"x.sources": DEB822}, "bookworm", "trixie") == [
        Source("http://mirror.example/debian", "trixie", "/etc/keys/mine.gpg"),
        Source("http://mirror.example/debian", "trixie-updates", "/etc/keys/mine.gpg"),
        Source("http://mirror.example/debian-security", "trixie-security", KEYRING),
    ]


def test_the_older_form_says_the_same() -> None:
    assert sources.of_host({"sources.list": ONE_LINE}, "bookworm", "trixie") == [
        Source("http://mirror.example/debian", "trixie", KEYRING),
        Source("https://two.example/debian", "trixie-updates", "/etc/keys/mine.gpg"),
    ]


@pytest.mark.parametrize(("files", "codename"), [({}, "bookworm"), ({"x.sources": DEB822}, ""), ({"a": ""}, "noble")])
def test_a_host_that_is_no_debian_is_told_to_name_a_mirror(files: dict[str, str], codename: str) -> None:
    with pytest.raises(BuildFault, match="--mirror URL"):
        sources.of_host(files, codename, "trixie")


def test_a_named_mirror_may_name_its_suite() -> None:
    found = sources.of_mirrors(
        ["http://one.example/debian", "http://one.example/security trixie-security"], "trixie", "k"
    )
    assert [(each.uri, each.suite) for each in found] == [
        ("http://one.example/debian", "trixie"),
        ("http://one.example/security", "trixie-security"),
    ]


def test_what_is_written_for_apt_reads_as_it_was() -> None:
    found = sources.of_host({"x.sources": DEB822}, "bookworm", "trixie")
    assert sources.of_host({"y.sources": sources.render(found)}, "trixie", "trixie") == found


def test_of_the_hosts_settings_only_the_way_to_the_mirror_is_taken() -> None:
    dump = 'APT::Update::Post-Invoke:: "rm -f x";\nAcquire::http::Proxy "http://p:1";\nAcquire::Languages:: "en";\n'
    assert sources.transport(dump) == 'Acquire::http::Proxy "http://p:1";\n'
