"""A metadata service as Amazon's: answers the requests of one connection, on standard input and output.

    python -I imds.py USER_DATA_FILE      QEMU starts one for each connection to 169.254.169.254:80

It imports nothing of ours: the guest reaches it.
"""

import sys
from typing import BinaryIO, Final

_TOKEN: Final = b"peerpods-local"  # nothing to keep out: who reaches this address is the VM itself
_MOST_LINES: Final = 64


def serve(stream: BinaryIO, out: BinaryIO, user_data: bytes) -> None:
    """Until the guest hangs up."""
    while line := stream.readline(8192):
        words = line.split()
        length = 0
        for _ in range(_MOST_LINES):
            header = stream.readline(8192).strip()
            if not header:
                break
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length" and value.strip().isdigit():
                length = min(int(value), 65536)
        stream.read(length)
        status, body = answer(words[:2], user_data)
        out.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        out.flush()


def answer(request: list[bytes], user_data: bytes) -> tuple[bytes, bytes]:
    """Status and body for a method and a path."""
    match request:
        case [b"PUT", b"/latest/api/token"]:
            return b"200 OK", _TOKEN
        case [b"GET", b"/latest/user-data"]:
            return b"200 OK", user_data
    return b"404 Not Found", b""


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        serve(sys.stdin.buffer, sys.stdout.buffer, file.read())
