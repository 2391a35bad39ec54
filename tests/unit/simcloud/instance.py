"""What the tests' instances run: it says what it sees, and does as it is told, on TCP port 7000.

Run with the plain interpreter, so that twenty of them start quickly.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys

PORT = 7000
METADATA = ("169.254.169.254", 80)
RESTART, POWER_OFF = 0x01234567, 0x4321FEDC  # reboot(2)
IP_MINTTL = 21  # drop what has fewer hops left: as if this program were further away


def metadata(path: str, method: str = "GET", *headers: str, least_ttl: int = 0) -> tuple[int, bytes]:
    """Status and body."""
    with socket.create_connection(METADATA, timeout=1) as connection:
        if least_ttl:
            connection.setsockopt(socket.IPPROTO_IP, IP_MINTTL, least_ttl)
        lines = [f"{method} {path} HTTP/1.0", "Host: 169.254.169.254", *headers, "", ""]
        connection.sendall("\r\n".join(lines).encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def token(**far: int) -> str:
    return metadata("/latest/api/token", "PUT", "X-aws-ec2-metadata-token-ttl-seconds: 60", **far)[1].decode()


def user_data() -> str:
    status, body = metadata("/latest/user-data", "GET", f"X-aws-ec2-metadata-token: {token()}")
    return body.decode("latin-1") if status == 200 else str(status)


def writable(place: str) -> bool:
    try:
        with open(f"{place}/simcloud-test", "w"):
            return True
    except OSError:
        return False


def facts(argument: str) -> dict[str, object]:
    return {
        "user_data": user_data(),
        "without_token": metadata("/latest/user-data")[0],
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "links": sorted(os.listdir("/sys/class/net")),
        "environment": dict(os.environ),
        "places": {place: sorted(os.listdir(place)) for place in ("/tmp", "/run", "/media")},
        "writable": [place for place in ("/run", "/tmp", "/var/log", "/media", "/etc", "/") if writable(place)],
        "processes": [pid for pid in os.listdir("/proc") if pid.isdecimal()],
    }


def far(least_ttl: str) -> str:
    """Whether a token reaches a program that is further away."""
    try:
        return "arrived" if token(least_ttl=int(least_ttl)) else "empty"
    except TimeoutError:
        return "lost"


def reach(address: str) -> str:
    """Connect to another instance or the worker: its address, or the error's name."""
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2) as connection:
            return str(connection.getpeername()[0])
    except OSError as error:
        return type(error).__name__


def down(how: str) -> str:
    """Shut the machine down as its operating system would, or crash."""
    if how == "crash":
        os._exit(3)
    assert os.getpid() == 1, "outside an instance this would take down the machine"
    ctypes.CDLL(None).reboot(RESTART if how == "restart" else POWER_OFF)
    signal.pause()
    return ""


def spawn(mark: str) -> int:
    """A process that outlives whoever started it, as a daemon does, with `mark` on its command line."""
    daemon = [sys.executable, "-S", "-c", "import time; time.sleep(1000)", mark]
    return subprocess.Popen(daemon, start_new_session=True).pid


def shout(length: str) -> str:
    print("x" * int(length), flush=True)
    return ""


TALENTS = {each.__name__: each for each in (facts, far, reach, down, spawn, shout)}


def main() -> None:
    print("hello from", socket.gethostname(), flush=True)
    print("and from stderr", file=sys.stderr, flush=True)
    with socket.create_server(("0.0.0.0", PORT)) as listener:
        while True:
            connection, peer = listener.accept()
            with connection:
                talent, _, argument = connection.recv(4096).decode().partition(" ")
                answer = peer[0] if talent == "peer" else TALENTS[talent](argument)
                connection.sendall(json.dumps(answer).encode())


if __name__ == "__main__":
    main()
