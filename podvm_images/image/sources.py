"""Where this host's own apt gets its packages from, asked for another suite; pure.

No mirror is named in this project: the host knows one that it reaches, or `--mirror` names it. Both of apt's forms are
read: one line (sources.list) and deb822 (*.sources). Source: sources.list(5).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from podvm_images.image.faults import BuildFault

KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
_POCKETS: Final = ("", "-updates", "-security")  # of a suite; backports and proposals are no part of an image
_ONE_LINE: Final = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>[^#]*)")
_MAIN: Final = "main"


@dataclass(frozen=True, slots=True)
class Source:
    """One place, for one suite; `signed_by` is a keyring's path."""

    uri: str
    suite: str
    signed_by: str = KEYRING


def of_host(files: Mapping[str, str], codename: str, suite: str) -> list[Source]:
    """`suite` wherever the host has its own suite `codename`; `files`: path -> text.

    Raises: BuildFault where it has none: the host is no Debian, or its sources are elsewhere.
    """
    found = [
        Source(each.uri, suite + each.suite.removeprefix(codename), each.signed_by)
        for path, text in sorted(files.items())
        for each in (_deb822(text) if path.endswith(".sources") else _one_line(text))
        if each.suite.startswith(codename) and each.suite.removeprefix(codename) in _POCKETS
    ]
    if not codename or not found:
        raise BuildFault(
            f"this host's apt has no source of Debian that could be asked for {suite} (looked in "
            f"{', '.join(sorted(files)) or '/etc/apt'}): name one with --mirror URL, and its keyring with --keyring FILE"
        )
    return list(dict.fromkeys(found))


def of_mirrors(mirrors: Iterable[str], suite: str, keyring: str) -> list[Source]:
    """Of `URL`, or `URL SUITE`: a dated mirror, or one of your own."""
    found = []
    for text in mirrors:
        uri, _, named = text.strip().partition(" ")
        found.append(Source(uri, named.strip() or suite, keyring))
    return found


def render(sources: Iterable[Source]) -> str:
    """A *.sources file."""
    return "\n".join(
        f"Types: deb\nURIs: {each.uri}\nSuites: {each.suite}\nComponents: {_MAIN}\nSigned-By: {each.signed_by}\n"
        for each in sources
    )


def transport(dump: str) -> str:
    """What `apt-config dump` says of proxies and certificates, as a configuration file: the rest is not ours to use."""
    wanted = re.compile(r"Acquire::(https?|Retries|ForceIPv4|ForceIPv6)\b")
    return "".join(f"{line}\n" for line in dump.splitlines() if wanted.match(line))


def _deb822(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {
            match[1].lower(): " ".join(match[2].split())
            for match in re.finditer(r"(?m)^([A-Za-z-]+):((?:.*)(?:\n[ \t].*)*)", stanza)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        if _MAIN not in fields.get("components", "").split():
            continue
        signed_by = fields.get("signed-by", KEYRING)
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, signed_by if signed_by.startswith("/") else KEYRING)


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.strip())
        if match and _MAIN in match["components"].split():
            signed_by = re.search(r"signed-by=(/\S+)", match["options"] or "", re.IGNORECASE)
            yield Source(match["uri"], match["suite"], signed_by[1] if signed_by else KEYRING)
