"""A confidential data hub on a real unix socket, strict about what it is asked; what it "decrypts" is another disk.

LUKS itself is not played: the disk keeps a LUKS header, and a second device has what would be inside.
"""

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from adaptor.errors import Code, StatusError
from adaptor.protos import cdh_pb2
from adaptor.protos.cdh_pb2 import SecureMountRequest, SecureMountResponse
from adaptor.ttrpc.aio import Call, Server, Service

LUKS: Final = b"LUKS\xba\xbe\0\2"
_OPTIONS: Final = {
    "devicePath",
    "sourceType",
    "targetType",
    "encryptionType",
    "filesystemType",
    "key",
    "mapperName",
}


class Hub:
    """`inside` is mounted where an encrypted disk is asked for. `keys`: those that it is given."""

    def __init__(self, inside: str) -> None:
        self.inside = inside
        self.keys = {"kbs:///default/key/1"}
        self.asked: list[dict[str, str]] = []
        self.lies = False  # it says that it has mounted, and has not

    async def secure_mount(self, request: SecureMountRequest, call: Call) -> SecureMountResponse:
        options = dict(request.options)
        self.asked.append(options)
        if request.volume_type != "block-device" or set(options) != _OPTIONS or not Path(request.mount_point).is_dir():
            raise StatusError(Code.INVALID_ARGUMENT, f"what is {request}")
        if options["encryptionType"] != "luks2" or options["targetType"] != "fileSystem":
            raise StatusError(Code.INVALID_ARGUMENT, f"cannot do {options}")
        if not re.fullmatch(r"kbs:///[^/]+/[^/]+/[^/]+", options["key"]) or options["key"] not in self.keys:
            raise StatusError(Code.INTERNAL, "kbs: resource not found, or the policy does not allow it")
        with open(options["devicePath"], "r+b") as disk:
            if options["sourceType"] == "empty":
                disk.write(LUKS)
                subprocess.run([f"mkfs.{options['filesystemType']}", "-q", self.inside], check=True)
            elif options["sourceType"] != "encrypted" or disk.read(len(LUKS)) != LUKS:
                raise StatusError(Code.INTERNAL, "not a valid LUKS device")
        if not self.lies:
            subprocess.run(["mount", self.inside, request.mount_point], check=True)
        return SecureMountResponse()


@asynccontextmanager
async def serving(hub: Hub, path: Path) -> AsyncIterator[None]:
    service = cdh_pb2.DESCRIPTOR.services_by_name["SecureMountService"]
    server = Server([Service(service, {"SecureMount": hub.secure_mount})])
    await server.listen_unix(str(path))
    try:
        yield
    finally:
        await server.aclose()
