import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from podvm_images.guest import imds
from tests.unit.guest.clouds import Aws, Azure, Gcp


def clouds(dmi: Path) -> list[str]:
    return [source.cloud for source in imds.candidates(str(dmi))]


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """A server that answers any request with these bytes, and closes."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(4096)
                connection.sendall(reply)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("file", "says", "first"),
    [
        ("sys_vendor", "Amazon EC2", "AWS"),
        ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77", "Azure"),
        ("sys_vendor", "Microsoft Corporation", "Azure"),
        ("product_name", "Google Compute Engine", "GCP"),
    ],
)
def test_the_cloud_that_the_firmware_names_is_asked_first_and_no_other_is_left_out(
    tmp_path: Path, file: str, says: str, first: str
) -> None:
    (tmp_path / file).write_text(f"{says}\n")
    assert clouds(tmp_path)[0] == first
    assert sorted(clouds(tmp_path)) == ["AWS", "Azure", "GCP"]


@pytest.mark.parametrize("says", [b"", b"Amazon EC2 but not really\n", b"\xff\xfe\n"])
def test_firmware_that_says_nothing_known_changes_nothing(tmp_path: Path, says: bytes) -> None:
    (tmp_path / "sys_vendor").write_bytes(says)
    assert clouds(tmp_path) == clouds(tmp_path / "absent") == ["AWS", "Azure", "GCP"]


def test_aws_is_never_asked_without_a_session_token() -> None:
    with Aws(b"{}") as service:
        assert imds.fetch(imds.AWS, service.url) == b"{}"
    assert service.log == ["PUT /latest/api/token 200", "GET /latest/user-data 200"]


def test_aws_without_its_second_version_is_not_asked_by_its_first() -> None:
    with Azure(b"{}") as service, pytest.raises(imds.ImdsError, match="PUT /latest/api/token answered 405"):
        imds.fetch(imds.AWS, service.url)
    assert service.log == ["PUT /latest/api/token 405"]


def test_azure_and_gcp_hand_out_base64_as_it_is() -> None:
    with Azure(b"{}") as azure, Gcp(b"{}") as gcp:
        assert imds.fetch(imds.AZURE, azure.url) == b"e30="
        assert imds.fetch(imds.GCP, gcp.url) == b"e30="


def test_no_more_than_a_limit_is_read() -> None:
    with Aws(b"x" * 300_000) as service:
        assert len(imds.fetch(imds.AWS, service.url)) == imds.MOST + 1


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["hang-up", "not-http", "cut-short", "bad-chunk", "nothing", "redirect"],
)
def test_whatever_answers_nonsense_is_a_source_without_user_data(reply: bytes) -> None:
    with answering(reply) as url, pytest.raises(imds.ImdsError) as error:
        imds.fetch(imds.GCP, url)
    assert error.value.answered


def test_a_token_that_is_no_header_value_is_a_source_without_user_data() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na\r\nb:"
    with answering(reply) as url, pytest.raises(imds.ImdsError):
        imds.fetch(imds.AWS, url)


def test_nobody_at_the_address_is_told_apart_from_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(imds.ImdsError, match="nobody answers") as error:
        imds.fetch(imds.GCP, f"http://127.0.0.1:{port}")
    assert not error.value.answered
