import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from adaptor.errors import InvalidRequest
from adaptor.protos.guest_pb2 import BindRequest
from podvm_images.guest import bind

INITDATA = """\
version = "0.1.0"
algorithm = "sha384"
[data]
"aa.toml" = '''
[token_configs.kbs]
url = "https://kbs.example:8080"
'''
"cdh.toml" = "socket = 'x'\\n"
"policy.rego" = "package agent_policy\\ndefault AllowRequestsFailingPolicy := false\\n# grüße\\n"
""".encode()
AUTH = b'{"auths": {"registry.example": {"auth": "dXNlcjpwYXNz"}}}'


def request(**fields: Any) -> BindRequest:
    given: dict[str, Any] = {"sandbox_id": "a" * 64, "pod_namespace": "shop", "pod_name": "web-0"}
    return BindRequest(**given | fields)


def content(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run_dir.iterdir()}


def apply(run_dir: Path, **fields: Any) -> dict[str, bytes]:
    bind.write(run_dir, bind.provision(request(**fields)).files)
    return content(run_dir)


def test_everything_lands_where_upstreams_programs_look_for_it(tmp_path: Path) -> None:
    files = apply(tmp_path / "peerpod", initdata=INITDATA, registry_auth=AUTH, scratch_space=True)
    marker = json.loads(files.pop("bound"))
    assert marker == {"sandbox_id": "a" * 64, "namespace": "shop", "name": "web-0"}
    assert files == {
        "aa.toml": b'[token_configs.kbs]\nurl = "https://kbs.example:8080"\n',
        "cdh.toml": b"socket = 'x'\n",
        "policy.rego": "package agent_policy\ndefault AllowRequestsFailingPolicy := false\n# grüße\n".encode(),
        "initdata": INITDATA,
        "initdata.digest": hashlib.sha384(INITDATA).hexdigest().encode(),
        "auth.json": AUTH,
        "scratch-space.marker": b"",
    }


def test_a_bind_that_brings_nothing_writes_nothing_but_whose_vm_it_is(tmp_path: Path) -> None:
    assert list(apply(tmp_path)) == ["bound"]


def test_only_root_can_read_what_was_written(tmp_path: Path) -> None:
    run_dir = tmp_path / "peerpod"
    run_dir.mkdir(mode=0o755)  # an image may have made it
    old = os.umask(0)
    try:
        apply(run_dir, initdata=INITDATA, registry_auth=AUTH, scratch_space=True)
    finally:
        os.umask(old)
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in run_dir.iterdir()} == {0o600}


@pytest.mark.parametrize(("algorithm", "length"), [("sha256", 64), ("sha384", 96), ("sha512", 128)])
def test_the_digest_is_the_whole_hex_of_the_raw_bytes_without_a_line_end(
    tmp_path: Path, algorithm: str, length: int
) -> None:
    # A comment, CRLF and spaces: what a re-serialised document would lose.
    raw = f'# mine\r\nversion="0.1.0"\r\n  algorithm = "{algorithm}"\r\n[data]\r\n'.encode()
    digest = apply(tmp_path, initdata=raw)["initdata.digest"]
    assert digest == hashlib.new(algorithm, raw).hexdigest().encode()
    assert len(digest) == length


def test_entries_of_initdata_that_nothing_reads_are_named_and_not_written(tmp_path: Path) -> None:
    raw = INITDATA + b'"../../etc/passwd" = "root::0:0"\n"apf.json" = "{}"\n"bound" = "x"\n'
    decided = bind.provision(request(initdata=raw))
    assert decided.ignored == ("../../etc/passwd", "apf.json", "bound")
    bind.write(tmp_path, decided.files)
    assert not {"passwd", "apf.json"} & set(content(tmp_path))
    assert bind.bound_to(tmp_path) == f"pod shop/web-0 (sandbox {'a' * 64})"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"sandbox_id": ""}, "sandbox_id is empty"),
        ({"initdata": b"\xff\xfe"}, "initdata is not TOML"),
        ({"initdata": b"version = \n"}, "initdata is not TOML"),
        ({"initdata": b"x = " + b"[" * 9000}, "initdata is not TOML"),
        ({"initdata": b"H4sIAAAAAAAA"}, "initdata is not TOML"),
        ({"initdata": b""" algorithm="sha256"\n[data]\n"""}, "version is None; '0.1.0' is understood"),
        ({"initdata": INITDATA.replace(b"0.1.0", b"0.2.0")}, "version is '0.2.0'; '0.1.0' is understood"),
        ({"initdata": INITDATA.replace(b"sha384", b"sha-384")}, "algorithm is 'sha-384'; it must be one of sha256, "),
        ({"initdata": INITDATA.replace(b"sha384", b"md5")}, "algorithm is 'md5'"),
        ({"initdata": b"""version="0.1.0"\nalgorithm=["sha256"]\n[data]\n"""}, "algorithm is"),
        ({"initdata": b"""version="0.1.0"\nalgorithm="sha256"\n"""}, "no .data. table"),
        ({"initdata": b"""version="0.1.0"\nalgorithm="sha256"\ndata="x"\n"""}, "no .data. table"),
        ({"initdata": INITDATA + b"other = 7\n"}, "entry 'other' is not a text"),
        ({"registry_auth": b"user:hunter2"}, "registry_auth is not a JSON object"),
        ({"registry_auth": b'["hunter2"]'}, "registry_auth is not a JSON object"),
        ({"registry_auth": b"\xffhunter2"}, "registry_auth is not a JSON object"),
        ({"registry_auth": b"[" * 9000}, "registry_auth is not a JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_bind_is_refused_with_its_fault(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint) as error:
        bind.provision(request(**fields))
    assert "hunter2" not in str(error.value)


def test_files_are_in_place_before_the_marker_says_so(tmp_path: Path) -> None:
    assert list(bind.provision(request(initdata=INITDATA, registry_auth=AUTH, scratch_space=True)).files)[-1] == "bound"


def test_a_write_that_fails_leaves_nothing_and_may_be_repeated(tmp_path: Path) -> None:
    files = bind.provision(request(initdata=INITDATA)).files
    with pytest.raises(OSError):
        bind.write(tmp_path, files | {"no/such/directory": b""})
    assert content(tmp_path) == {}
    assert bind.bound_to(tmp_path) is None
    bind.write(tmp_path, files)
    assert set(content(tmp_path)) == set(files)


def test_a_crash_before_the_claim_leaves_the_vm_free(tmp_path: Path) -> None:
    (tmp_path / ".bind-staged").mkdir()
    (tmp_path / ".bind-staged" / "auth.json").write_bytes(b'{"of": "nobody"}')
    assert bind.bound_to(tmp_path) is None
    assert set(apply(tmp_path)) == {"bound"}


def test_a_crash_after_the_claim_leaves_the_vm_taken(tmp_path: Path) -> None:
    """A half-written pod's secrets must not end up with the next pod."""
    files = bind.provision(request(registry_auth=AUTH)).files
    (tmp_path / "bound").mkdir()  # the last rename cannot succeed
    (tmp_path / "bound" / "in the way").touch()
    with pytest.raises(OSError):
        bind.write(tmp_path, files)
    assert bind.bound_to(tmp_path) == "a pod whose Bind was cut off half-way"


@pytest.mark.parametrize("marker", [b"", b"{}", b"[]", b"\xff"])
def test_a_marker_that_cannot_be_read_still_marks(tmp_path: Path, marker: bytes) -> None:
    (tmp_path / "bound").write_bytes(marker)
    assert bind.bound_to(tmp_path) == "a pod that can no longer be told"


def test_neither_credentials_nor_initdata_are_in_the_repr() -> None:
    shown = repr(bind.provision(request(initdata=INITDATA, registry_auth=AUTH)))
    assert "dXNlcjpwYXNz" not in shown
    assert "kbs.example" not in shown
