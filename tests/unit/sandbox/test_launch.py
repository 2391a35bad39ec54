"""Names, tokens and user-data."""

import base64
import gzip
import hashlib
import hmac
import json
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.sandbox import launch
from adaptor.sandbox.model import LaunchIntended, SandboxSpec
from providers.base import Ownership

SPEC = SandboxSpec("0123456789abcdef" * 4, "web-7c9", "shop", "/run/netns/x")


@given(st.text(max_size=300), st.text(min_size=1, max_size=100))
def test_every_pod_gets_a_name_that_every_cloud_takes(pod: str, sandbox: str) -> None:
    assert re.fullmatch(r"podvm(-[a-z0-9-]+)?-[a-z0-9]{1,8}", launch.vm_name(SandboxSpec(sandbox, pod, "ns", "/n")))
    assert len(launch.vm_name(SandboxSpec(sandbox, pod, "ns", "/n"))) <= 63


def test_an_ordinary_pods_vm_is_named_as_upstream_does() -> None:
    assert launch.vm_name(SPEC) == "podvm-web-7c9-01234567"


def test_a_token_is_the_same_after_a_crash_and_its_own_for_each_launch() -> None:
    owner = Ownership("c", "n")
    first = launch.client_token(owner, SPEC.id, 1)
    assert first == launch.client_token(Ownership("c", "n"), SPEC.id, 1)
    others = {launch.client_token(owner, SPEC.id, 2), launch.client_token(Ownership("c", "m"), SPEC.id, 1)}
    assert first not in others
    assert len(others) == 2
    assert len(first) == 64


def test_own_user_data_is_small_and_holds_nothing_secret_but_the_token() -> None:
    data = launch.own_user_data(b"t" * 32, b"-----BEGIN CERTIFICATE-----\n" + b"A" * 700, 15150)
    assert len(data) < names.USER_DATA_LIMIT
    assert set(json.loads(data)) == {"peerpods", "launch_token", "worker_ca", "port"}


def test_upstream_user_data_is_what_a_strict_two_key_parser_takes() -> None:
    data = launch.upstream_user_data({"pod-name": "web", "tls-server-key": "line1\nline2\n"}, "version = '0.1.0'\n")
    assert data.startswith(b"#cloud-config\n")
    files = yaml.safe_load(data)["write_files"]
    assert all(set(entry) == {"path", "content"} for entry in files)
    content = {entry["path"]: entry["content"] for entry in files}
    assert json.loads(content[names.UPSTREAM_APF])["tls-server-key"] == "line1\nline2\n"
    assert gzip.decompress(base64.b64decode(content["/run/peerpod/initdata"])) == b"version = '0.1.0'\n"


def test_a_stock_guest_is_told_of_its_scratch_disk_by_a_marker_and_only_when_it_has_one() -> None:
    marker = {"path": "/run/peerpod/scratch-space.marker", "content": "asked for\n"}
    assert yaml.safe_load(launch.upstream_user_data({}, None, scratch=True))["write_files"][1:] == [marker]
    assert len(yaml.safe_load(launch.upstream_user_data({}, None))["write_files"]) == 1


def test_pull_secrets_reach_a_stock_guest_as_the_file_that_its_puller_reads() -> None:
    auth = json.dumps({"auths": {"quay.io": {"auth": "dTpw"}}}).encode()
    written = yaml.safe_load(launch.upstream_user_data({}, None, registry_auth=auth))["write_files"][1:]
    assert [entry["path"] for entry in written] == ["/run/peerpod/auth.json"]
    assert json.loads(written[0]["content"]) == json.loads(auth)


def test_pull_secrets_that_a_clouds_user_data_cannot_hold_are_named_as_the_reason_and_not_shown() -> None:
    with pytest.raises(
        InvalidRequest, match=r"takes 16384: the pod's image pull secrets \(7000 bytes\).*guest\.flavor"
    ) as refused:
        launch.check_user_data(b"x" * 20001, 16384, b"hunter2" * 1000)
    assert "hunter2" not in str(refused.value)


def test_a_bind_that_fits_no_frame_is_refused_with_the_reason() -> None:
    most = (4 << 20) - (64 << 10)
    assert len(launch.check_bind(b"x" * most, b"")) == most
    with pytest.raises(
        InvalidRequest, match=f"{most + 1} bytes, of which the pod's image pull secrets are 3, and {most} is"
    ):
        launch.check_bind(b"x" * (most + 1), b"abc")


def test_initdata_is_encoded_to_the_same_bytes_every_time() -> None:
    assert launch.encode_initdata("a = 1") == launch.encode_initdata("a = 1")


def test_a_proof_holds_for_its_token_nonce_and_certificate_only() -> None:
    token, nonce, certificate = b"t" * 32, b"n" * 32, b"der"
    message = names.LAUNCH_PROOF_LABEL + nonce + hashlib.sha256(certificate).digest()
    proof = hmac.new(token, message, hashlib.sha256).digest()
    assert launch.verify_proof(proof, token, nonce, certificate)
    assert not launch.verify_proof(proof, b"u" * 32, nonce, certificate)
    assert not launch.verify_proof(proof, token, b"m" * 32, certificate)
    assert not launch.verify_proof(proof, token, nonce, b"other")
    assert not launch.verify_proof(b"", token, nonce, certificate)


def test_the_vm_carries_tags_that_find_it_again() -> None:
    intent = LaunchIntended("token-1", "podvm-web", "m6a.large", "", base64.b64encode(b"data").decode(), "", SPEC.id)
    spec = launch.launch_spec(SPEC, intent)
    assert spec.user_data == b"data"
    assert spec.tags == {
        "peerpods-sandbox": SPEC.id,
        "peerpods-token": "token-1",
        "peerpods-pod-namespace": "shop",
        "peerpods-pod-name": "web-7c9",
    }


def test_user_data_over_the_clouds_limit_is_refused_with_both_numbers() -> None:
    with pytest.raises(InvalidRequest, match=r"20001 bytes and this cloud takes 16384"):
        launch.check_user_data(b"x" * 20001, 16384)


def test_a_launch_token_is_shared_for_two_minutes_where_create_calls_are() -> None:
    tokens = launch.LaunchTokens()
    first = tokens.draw(1000.0, shared=True)
    assert len(first) == 32
    assert tokens.draw(1119.0, shared=True) == first
    second = tokens.draw(1120.0, shared=True)
    assert second != first
    assert tokens.draw(1239.0, shared=True) == second
    alone = {tokens.draw(1120.0, shared=False) for _ in range(10)}
    assert len(alone) == 10
    assert not alone & {first, second}
