"""A tiny HTTP server for a pod's container, and a client of it.

The server is Perl: simulated VMs have no programs but this machine's /usr, and Debian's always has that.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

PORT: Final = 8080
_BOUND: Final = 65536  # bytes of an answer that anybody reads

# Each connection is served until its client has had enough. `%s`: the address to listen on.
_SERVER: Final = """
use IO::Socket::IP; use POSIX;
$SIG{CHLD} = 'IGNORE'; $| = 1;
my $server = IO::Socket::IP->new(LocalHost => '%s', LocalPort => %d, Listen => 128, ReuseAddr => 1, V6Only => 0)
    or die "cannot listen: $@";
print 'hello from ' . (uname)[1] . "\\n";
while (1) {
    my $client = $server->accept or next;
    next if fork;
    $client->autoflush(1);
    my $path;
    while (my $line = <$client>) {
        $path = $1 if $line =~ /^GET (\\S+)/;
        next unless $line =~ /^\\r?$/;
        my $body = "$path from " . (uname)[1] . ' to ' . $client->peerhost =~ s/^::ffff://r;
        print $client "HTTP/1.1 200 OK\\r\\nContent-Length: " . length($body) . "\\r\\n\\r\\n" . $body;
    }
    exit 0;
}
"""
# One request; prints the answer's body, or why there is none.
_ASK: Final = """
use IO::Socket::IP;
my $server = IO::Socket::IP->new(PeerHost => '%s', PeerPort => %d, Timeout => %d) or print("no answer: $!\n"), exit;
print $server "GET %s HTTP/1.1\r\nHost: pod\r\n\r\n";
while (<$server>) { $length = $1 if /^Content-Length: *(\\d+)/i; last if /^\r?$/ }
read $server, my $body, $length || 65536;
print $body, "\n";
"""
NONE: Final = "no answer"
# The same two for a pod VM's own image, whose /usr has Python and no Perl.
_PYTHON: Final = "/usr/bin/python3.13"
_PYTHON_SERVER: Final = """
import os, socket, threading
server = socket.create_server(('%s', %d), backlog=128)
host = os.uname().nodename
print('hello from ' + host, flush=True)
def serve(client, peer):
    with client, client.makefile('rb') as lines:
        path = ''
        for line in lines:
            if line.startswith(b'GET '):
                path = line.split()[1].decode()
            if not line.strip():
                body = f'{path} from {host} to {peer}'.encode()
                client.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: %%d\\r\\n\\r\\n' %% len(body) + body)
while True:
    client, peer = server.accept()
    threading.Thread(target=serve, args=(client, peer[0]), daemon=True).start()
"""
_PYTHON_ASK: Final = """
import socket, sys
try:
    server = socket.create_connection(('%s', %d), %d)
except OSError as error:
    print('no answer:', error.strerror or error)
    sys.exit()
server.sendall(b'GET %s HTTP/1.1\\r\\nHost: pod\\r\\nConnection: close\\r\\n\\r\\n')
head, _, body = server.recv(65536).partition(b'\\r\\n\\r\\n')
print(body.decode())
"""


class NoAnswer(OSError):
    """What came was no answer of the server's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`client` is whom the server took the request to be from."""

    path: str
    host: str
    client: str
    seconds: float


def serve(address: str = "0.0.0.0", port: int = PORT, *, python: bool = False) -> list[str]:
    """The container's command; its first line of output says that it listens."""
    if python:
        return [_PYTHON, "-ISc", _PYTHON_SERVER % (address, port)]
    return ["perl", "-e", _SERVER % (address, port)]


def asker(address: str, path: str = "/", port: int = PORT, seconds: int = 2, *, python: bool = False) -> list[str]:
    """A command that asks for `path`; its output is the answer, or begins with NONE and says why there is none."""
    if python:
        return [_PYTHON, "-ISc", _PYTHON_ASK % (address, port, seconds, path)]
    return ["perl", "-e", _ASK % (address, port, seconds, path)]


class Client:
    """One connection, kept; raises OSError when it breaks."""

    def __init__(self, address: str, port: int = PORT) -> None:
        self._address = address
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, path: str = "/", timeout: float = 5.0) -> Answer:
        """GET it. Raises OSError, TimeoutError."""
        began = time.perf_counter()
        async with asyncio.timeout(timeout):
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._address, self._port)
            reader, writer = self._streams
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {self._address}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.rpartition(b"Content-Length:")[2])
            words = (await reader.readexactly(min(length, _BOUND))).decode().split()
        match words:
            case [answered, "from", host, "to", client] if answered == path:
                return Answer(path, host, client, time.perf_counter() - began)
            case _:
                raise NoAnswer(f"{self._address} answered {' '.join(words)!r} when asked for {path}")

    async def aclose(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].close()
            try:
                await self._streams[1].wait_closed()
            except OSError:
                pass  # it had hung up first
            self._streams = None


async def ask(address: str, path: str = "/", port: int = PORT) -> Answer:
    """One request on a connection of its own. Raises OSError, TimeoutError."""
    client = Client(address, port)
    try:
        return await client.ask(path)
    finally:
        await client.aclose()
