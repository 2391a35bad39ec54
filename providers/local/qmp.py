"""QEMU's control socket, as much of it as a VM's life takes. Blocking; one command a connection."""

import json
import socket
from collections.abc import Iterator
from typing import Any, Final

_MOST: Final = 1 << 20  # bytes of an answer


class QmpError(OSError):
    """QEMU answers otherwise than its protocol says, or not in time."""


def ask(path: str, command: str, timeout: float) -> Any:
    """The command's answer. Raises OSError: nobody listens, or no answer came in time; QmpError."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(timeout)
        link.connect(path)
        messages = _messages(link)
        if "QMP" not in next(messages):
            raise QmpError(f"{path} does not greet as QEMU does")
        for each in ("qmp_capabilities", command):
            link.sendall(json.dumps({"execute": each}).encode() + b"\n")
            answer = next(message for message in messages if "event" not in message)
            if "error" in answer:
                raise QmpError(f"{each}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]


def _messages(link: socket.socket) -> Iterator[dict[str, Any]]:
    kept = b""
    while len(kept) < _MOST:
        line, end, rest = kept.partition(b"\n")
        if end:
            kept = rest
            try:
                found = json.loads(line)
            except ValueError as error:
                raise QmpError(f"QEMU says {line[:100]!r}") from error
            if not isinstance(found, dict):
                raise QmpError(f"QEMU says {line[:100]!r}")
            yield found
            continue
        data = link.recv(65536)
        if not data:
            raise QmpError("QEMU hung up")
        kept += data
    raise QmpError("QEMU says too much")
