import base64
import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptor import names
from podvm_images.guest import userdata
from podvm_images.guest.userdata import UserData, UserDataError
from tests.unit.guest.clouds import Aws, Azure, Gcp, MetadataService

TOKEN = bytes(range(32))
CA = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def document(**changes: Any) -> dict[str, Any]:
    return {"peerpods": 1, "launch_token": base64.b64encode(TOKEN).decode(), "worker_ca": CA, "port": 15999} | changes


def raw(**changes: Any) -> bytes:
    return json.dumps(document(**changes)).encode()


def without(key: str) -> bytes:
    return json.dumps({k: v for k, v in document().items() if k != key}).encode()


class VirtualTime:
    """Pauses pass at once; `after` runs something when that many seconds have passed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._due: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> float:
        return self.seconds

    def pause(self, seconds: float) -> None:
        self.seconds += seconds
        for entry in [entry for entry in self._due if entry[0] <= self.seconds]:
            self._due.remove(entry)
            entry[1]()

    def after(self, seconds: float, do: Callable[[], object]) -> None:
        self._due.append((seconds, do))


@pytest.fixture
def time() -> VirtualTime:
    return VirtualTime()


def read(where: Path, time: VirtualTime, url: str, *, timeout: float = 5, dmi: str = "/nonexistent") -> UserData:
    file = str(where / "user-data")
    found = userdata.read((file,), url, timeout, dmi=dmi, now=time.now, pause=time.pause)
    assert isinstance(found, UserData)
    return found


@pytest.fixture
def nobody() -> str:
    """A URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# -- parse ------------------------------------------------------------------------------------------


def test_plain_json_is_understood() -> None:
    assert userdata.parse(raw()) == UserData(TOKEN, CA, 15999)


@pytest.mark.parametrize(
    "encode",
    [
        base64.b64encode,
        base64.encodebytes,  # a line end every 76 characters
        lambda data: b" \n" + base64.b64encode(data) + b"\r\n",
        lambda data: b"\n\t" + data + b"\n",
    ],
    ids=["base64", "base64-in-lines", "base64-in-space", "json-in-space"],
)
def test_every_form_in_which_clouds_hand_it_out_is_understood(encode: Callable[[bytes], bytes]) -> None:
    assert userdata.parse(encode(raw())) == UserData(TOKEN, CA, 15999)


def test_a_port_need_not_be_given_and_unknown_keys_are_ignored() -> None:
    assert userdata.parse(without("port")).port == names.GUEST_PORT
    assert userdata.parse(raw(later={"more": [1]})) == UserData(TOKEN, CA, 15999)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (b"", "empty"),
        (b"   \n", "empty"),
        (raw()[:-20], "not JSON"),
        (b"{'peerpods': 1}", "not JSON"),
        (b'{"a":' + b"[" * 4000, "not JSON"),
        (b'{"peerpods": 1, "x": "\xff"}', "not JSON"),
        (b"[1]", "neither a JSON object nor a #cloud-config"),
        (b"<html>portal</html>", "neither a JSON object nor a #cloud-config"),
        (base64.b64encode(raw())[:-3], "neither a JSON object nor a #cloud-config|not JSON"),
        (base64.b64encode(base64.b64encode(raw())), "neither a JSON object nor a #cloud-config"),
        (base64.b64encode(raw()) + b"!", "neither a JSON object nor a #cloud-config"),
        (b"#cloud-config\nruncmd: []\n", "without write_files"),
        (raw(padding="x" * 4096), "4096 is the limit"),
        (base64.b64encode(raw(padding="x" * 4096)), "4096 is the limit"),
        (raw(peerpods=2), "version .* is 2; this guest understands 1"),
        (raw(peerpods=True), "version .* is True"),
        (raw(peerpods="1"), "version .* is '1'"),
        (without("peerpods"), "version .* is None"),
        (without("launch_token"), "launch_token"),
        (raw(launch_token="AAAA"), "launch_token"),
        (raw(launch_token=7), "launch_token"),
        (raw(launch_token="é" * 32), "launch_token"),
        (without("worker_ca"), "worker_ca"),
        (raw(worker_ca="/etc/ca.pem"), "worker_ca"),
        (raw(port=0), "port"),
        (raw(port=65536), "port"),
        (raw(port="15150"), "port"),
        (raw(port=True), "port"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(len(value)),
)
def test_what_cannot_be_used_is_refused_with_its_reason(given: bytes, complaint: str) -> None:
    with pytest.raises(UserDataError, match=complaint):
        userdata.parse(given)


@pytest.mark.parametrize("token", ["c2VjcmV0IHNlY3JldA==", "not/base64/c2VjcmV0"])
def test_a_refusal_does_not_show_the_launch_token(token: str) -> None:
    with pytest.raises(UserDataError) as error:
        userdata.parse(raw(launch_token=token))
    assert token not in str(error.value)


def test_the_token_is_not_in_the_repr() -> None:
    assert repr(TOKEN) not in repr(userdata.parse(raw()))


# -- read -------------------------------------------------------------------------------------------


def test_the_file_is_preferred_to_the_cloud(tmp_path: Path, time: VirtualTime) -> None:
    (tmp_path / "user-data").write_bytes(raw(port=1))
    with Aws(raw(port=2)) as cloud:
        assert read(tmp_path, time, cloud.url).port == 1
        assert cloud.log == []


@pytest.mark.parametrize("cloud", [Aws, Azure, Gcp])
def test_an_instance_launched_without_user_data_is_asked_until_it_has_some(
    tmp_path: Path, time: VirtualTime, cloud: type[MetadataService]
) -> None:
    with cloud(None) as service:
        time.after(20, lambda: setattr(service, "user_data", raw()))
        assert read(tmp_path, time, service.url, timeout=180).launch_token == TOKEN
    assert time.seconds == pytest.approx(20, abs=1)


@pytest.mark.parametrize("cloud", [Aws, Azure, Gcp])
@pytest.mark.parametrize("vendor", ["", "Amazon EC2", "Microsoft Corporation", "Google", "QEMU"])
def test_every_cloud_is_found_whatever_the_firmware_says(
    tmp_path: Path, time: VirtualTime, cloud: type[MetadataService], vendor: str
) -> None:
    (tmp_path / "sys_vendor").write_text(f"{vendor}\n")
    with cloud(raw()) as service:
        assert read(tmp_path, time, service.url, dmi=str(tmp_path)) == UserData(TOKEN, CA, 15999)
    assert time.seconds == 0


def test_a_metadata_service_that_comes_up_late_is_waited_for(tmp_path: Path, time: VirtualTime) -> None:
    with contextlib.ExitStack() as stack:
        late = Gcp(raw())
        time.after(100, lambda: stack.enter_context(late))
        assert read(tmp_path, time, late.url, timeout=180).launch_token == TOKEN
    assert time.seconds == pytest.approx(100, abs=1)


def test_a_file_that_appears_late_is_read(tmp_path: Path, time: VirtualTime, nobody: str) -> None:
    time.after(10, lambda: (tmp_path / "user-data").write_bytes(raw()))
    assert read(tmp_path, time, nobody, timeout=180).launch_token == TOKEN


def test_giving_up_tells_everything_that_was_tried(tmp_path: Path, time: VirtualTime) -> None:
    with Aws(None) as service, pytest.raises(UserDataError) as error:
        read(tmp_path, time, service.url, timeout=3)
    assert str(error.value) == (
        f"no user-data within 3 s. Tried: {tmp_path}/user-data: no such file; "
        f"AWS metadata at {service.url}: GET /latest/user-data answered 404; "
        f"Azure metadata at {service.url}: GET /metadata/instance/compute/userData?api-version=2021-01-01&format=text "
        "answered 404; "
        f"GCP metadata at {service.url}: GET /computeMetadata/v1/instance/attributes/user-data answered 404"
    )


def test_an_address_where_nobody_answers_is_asked_once_a_round(tmp_path: Path, time: VirtualTime, nobody: str) -> None:
    with pytest.raises(UserDataError) as error:
        read(tmp_path, time, nobody, timeout=3)
    assert str(error.value).count("nobody answers") == 1


@pytest.mark.parametrize(
    ("cloud", "given"),
    [(Aws, raw(peerpods=7)), (Azure, raw(peerpods=7)), (Gcp, raw(peerpods=7)), (Aws, b"#cloud-config\n")],
)
def test_unusable_user_data_ends_the_waiting_at_once(
    tmp_path: Path, time: VirtualTime, cloud: type[MetadataService], given: bytes
) -> None:
    with cloud(given) as service, pytest.raises(UserDataError, match=f"(?i){cloud.__name__} metadata.*cannot be used"):
        read(tmp_path, time, service.url, timeout=180)
    assert time.seconds == 0


def test_an_unusable_file_ends_the_waiting_at_once(tmp_path: Path, time: VirtualTime, nobody: str) -> None:
    (tmp_path / "user-data").write_bytes(b"{}")
    with pytest.raises(UserDataError, match=r"user-data in .*/user-data cannot be used: its version"):
        read(tmp_path, time, nobody)
    assert time.seconds == 0
