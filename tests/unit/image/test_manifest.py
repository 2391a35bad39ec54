"""image.json, written and read."""

import json
from dataclasses import replace

import pytest

from podvm_images.image.manifest import Manifest, ManifestFault, parse, to_json

IMAGE = Manifest(
    architecture="amd64",
    profile="min",
    release=False,
    development_agent=True,
    kernel_version="6.12.107+deb13-cloud-amd64",
    command_line="podvm.roothash=00",
    root_hash="00",
    hashes=(("podvm.raw", "ab" * 32), ("vmlinuz", "cd" * 32)),
    programs=(("kata-agent", "3.20.0 sha256:" + "ef" * 32),),
)


def test_what_is_written_is_read_as_it_was() -> None:
    assert parse(to_json(IMAGE), "image.json") == IMAGE
    assert to_json(replace(IMAGE, hashes=IMAGE.hashes[::-1])) == to_json(IMAGE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "of version 2; 1 is understood"),
        ({"release": "yes"}, "release is 'yes'"),
        ({"disk": 7}, "disk is 7"),
        ({"colour": "red"}, "colour is not known here"),
        ({"hashes": []}, r"hashes is \[\]"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(change: dict[str, object], why: str) -> None:
    with pytest.raises(ManifestFault, match=f"^image.json.*{why}"):
        parse(json.dumps(json.loads(to_json(IMAGE)) | change), "image.json")


def test_a_file_that_lacks_something_says_what() -> None:
    fields = json.loads(to_json(IMAGE))
    del fields["root_hash"], fields["kernel"]
    with pytest.raises(ManifestFault, match="kernel, root_hash missing"):
        parse(json.dumps(fields), "image.json")


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ManifestFault):
        parse(text, "image.json")
