"""image.json is read as strictly as it is written."""

import json
from dataclasses import fields
from typing import Any

import pytest

from podvm_images.image import manifest
from providers.local import image
from providers.local.image import ImageFault

WRITTEN = manifest.Manifest("amd64", "min", False, True, "6.12", "console=ttyS0", "ab")


def text(**changes: Any) -> str:
    return json.dumps({**json.loads(manifest.to_json(WRITTEN)), **changes})


def test_what_the_build_writes_is_understood() -> None:
    """Both ends know the keys by themselves: providers know nothing of images."""
    found = image.parse(manifest.to_json(WRITTEN), "/img")
    assert (found.architecture, found.kernel, found.disk) == ("x86_64", "/img/vmlinuz", "/img/podvm.raw")
    assert (found.command_line, found.development_agent) == ("console=ttyS0", True)


@pytest.mark.parametrize("name", sorted(field.name for field in fields(manifest.Manifest)))
def test_a_missing_key_is_told(name: str) -> None:
    found = json.loads(text())
    del found[name]
    with pytest.raises(ImageFault, match=name):
        image.parse(json.dumps(found), "/img")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version 2"),
        ({"version": True}, "version True"),
        ({"architecture": "riscv64"}, "riscv64"),
        ({"kernel": "../vmlinuz"}, "kernel"),
        ({"disk": "/dev/sda"}, "disk"),
        ({"initrd": ""}, "initrd"),
        ({"command_line": 7}, "command_line"),
        ({"release": "no"}, "release"),
        ({"novelty": 1}, "novelty"),
    ],
)
def test_what_is_not_as_it_was_written_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ImageFault, match=said) as caught:
        image.parse(text(**changes), "/img")
    assert str(caught.value).startswith("/img/image.json")


@pytest.mark.parametrize("broken", ["", "[]", "{", "7"])
def test_what_is_no_manifest_at_all_is_refused(broken: str) -> None:
    with pytest.raises(ImageFault):
        image.parse(broken, "/img")
