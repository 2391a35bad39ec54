"""Direct uploads: disks that wait for pages, the link that opens one, and the pages.

Source: Microsoft's "Upload a VHD to Azure" for disks, and blob storage's REST reference for Put Page and Get Page Ranges.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4
from xml.sax.saxutils import escape

from providers.simcloud.arm.desk import Asked, Desk, Handlers, Reply
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.state import DISK, Resource
from providers.simcloud.exchange import Answer, Call

PAGES: Final = ("Pages.Put", "Pages.List")  # asked without a token, the link is enough
_FOOTER: Final = 512
_LEAST, _MOST = 20_972_032, 35_183_298_347_520  # bytes of uploadSizeBytes: 20 MiB and 32 TiB, with the footer
_MIB, _GIB = 1 << 20, 1 << 30
_PAGE, _PUT = 512, 4 << 20
_LONGEST: Final = 4_294_967_295  # seconds
_STATUS: Final = {"Md5Mismatch": 400, "InvalidPageRange": 416, "BlobNotFound": 404, "AuthenticationFailed": 403}


class Uploads:
    """All disks that are being uploaded, and what has been."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._world = desk.world
        self._key = secrets.token_bytes(32)
        self.pages: dict[str, dict[int, bytes]] = {}  # by the disk's unique id: offset -> bytes
        self._links: dict[str, str] = {}  # the same: until when its link is good

    def handlers(self) -> Handlers:
        """By action."""
        return {"Disks.BeginGetAccess": self._begin, "Disks.EndGetAccess": self._end}

    def content(self, disk: Resource) -> bytes:
        """All bytes of an uploaded disk, its footer too."""
        whole = bytearray(disk.properties["creationData"]["uploadSizeBytes"])
        for offset, data in self.pages.get(disk.properties["uniqueId"], {}).items():
            whole[offset : offset + len(data)] = data
        return bytes(whole)

    def perform(self, call: Call, asked: Asked) -> Answer:
        """Blob storage's own front: its refusals are XML."""
        try:
            disk = self._opened(asked)
            return self._put(disk, call) if call.method == "PUT" else self._list(disk)
        except Refused as error:
            return refusal(error.code, error.message)

    def _begin(self, asked: Asked) -> Reply:
        disk = self._world.named(DISK, asked.group, asked.name)
        access, seconds = asked.body.get("access"), asked.body.get("durationInSeconds")
        if not isinstance(seconds, int) or not 1 <= seconds <= _LONGEST:
            raise Refused("InvalidParameter", "durationInSeconds is missing or out of range.", target="grantAccessData")
        if access != "Write" or disk.properties["diskState"] not in ("ReadyToUpload", "ActiveUpload"):
            raise Refused(
                "OperationNotAllowed", f"Disk {disk.name} is {disk.properties['diskState']}: no {access} access to it."
            )
        until = datetime.fromtimestamp(int(time.time()) + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        key = disk.properties["uniqueId"]
        self._links[key] = until
        disk.properties["diskState"] = "ActiveUpload"
        query = {"sv": "2018-03-28", "sr": "b", "se": until, "sp": "rw", "sig": self._signature(key, until)}
        operation = self._desk.operations.begin(disk.id)
        operation.result = {"accessSAS": f"{asked.base}/uploads/{key}?{urlencode(query)}"}
        return Reply(202, None, operation.headers(asked.base, asked.version, located=True))

    def _end(self, asked: Asked) -> Reply:
        disk = self._world.named(DISK, asked.group, asked.name)
        if disk.properties["diskState"] == "ActiveUpload":
            self._links.pop(disk.properties["uniqueId"], None)
            disk.properties["diskState"] = "Unattached"
        operation = self._desk.operations.begin(disk.id)
        return Reply(202, None, operation.headers(asked.base, asked.version, located=True))

    def _opened(self, asked: Asked) -> Resource:
        key, until = asked.names["blob"], asked.query.get("se", "")
        good = hmac.compare_digest(asked.query.get("sig", ""), self._signature(key, until))
        if not good or self._links.get(key) != until or datetime.fromisoformat(until) < datetime.now(UTC):
            raise Refused("AuthenticationFailed", "Server failed to authenticate the request.")
        if "Authorization" in asked.headers:
            raise Refused("AuthenticationFailed", "A link and a token: only one of them may be given.")
        for disk in self._world.all(DISK):
            if disk.properties["uniqueId"] == key:
                return disk
        raise Refused("BlobNotFound", "The specified blob does not exist.")

    def _put(self, disk: Resource, call: Call) -> Answer:
        headers, data = call.headers, call.body
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("x-ms-range") or headers.get("Range", ""))
        if call.form.get("comp") != "page" or headers.get("x-ms-page-write", "").lower() != "update" or found is None:
            raise Refused(
                "InvalidHeaderValue", "simcloud plays Put Page with x-ms-page-write: update and a range only."
            )
        if not headers.get("x-ms-version"):
            raise Refused("MissingRequiredHeader", "x-ms-version is missing.")
        first, end = int(found[1]), int(found[2]) + 1
        if first % _PAGE or end % _PAGE or end <= first or end - first > _PUT:
            raise Refused("InvalidPageRange", "The page range specified is invalid: whole pages, 4 MiB at most.")
        if end > disk.properties["creationData"]["uploadSizeBytes"]:
            raise Refused("InvalidPageRange", "The page range lies behind the blob's end.")
        if len(data) != end - first:
            raise Refused("InvalidHeaderValue", "The range and the length of the content differ.")
        said, own = headers.get("Content-MD5", ""), hashlib.md5(data, usedforsecurity=False).digest()
        if said and said != base64.b64encode(own).decode():
            raise Refused(
                "Md5Mismatch", "The MD5 value specified in the request did not match with the one calculated."
            )
        self.pages.setdefault(disk.properties["uniqueId"], {})[first] = data
        return Answer(201, b"", "application/xml", {"x-ms-request-id": str(uuid4()), "Content-MD5": said})

    def _list(self, disk: Resource) -> Answer:
        written = self.pages.get(disk.properties["uniqueId"], {})
        ranges = "".join(
            f"<PageRange><Start>{first}</Start><End>{first + len(data) - 1}</End></PageRange>"
            for first, data in sorted(written.items())
        )
        body = f'\ufeff<?xml version="1.0" encoding="utf-8"?><PageList>{ranges}</PageList>'
        return Answer(200, body.encode(), "application/xml", {"x-ms-request-id": str(uuid4())})

    def _signature(self, key: str, until: str) -> str:
        return hmac.new(self._key, f"{key}\0{until}".encode(), hashlib.sha256).hexdigest()


def refusal(code: str, message: str, status: int = 0) -> Answer:
    """As blob storage refuses."""
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>'
    headers = {"x-ms-request-id": str(uuid4()), "x-ms-error-code": code}
    return Answer(status or _STATUS.get(code, 400), body.encode(), "application/xml", headers, code)


def check_new(properties: Mapping[str, Any]) -> dict[str, Any]:
    """What a disk that is to be uploaded becomes. Raises Refused."""
    size = properties["creationData"].get("uploadSizeBytes")
    if not isinstance(size, int) or not _LEAST <= size <= _MOST or (size - _FOOTER) % _MIB:
        raise Refused(
            "InvalidParameter",
            f"The value '{size}' of parameter 'disk.creationData.uploadSizeBytes' is out of range: a fixed VHD has whole"
            f" MiB, at least 20, and a footer of {_FOOTER} bytes.",
            target="disk.creationData.uploadSizeBytes",
        )
    if properties.get("diskSizeGB"):
        raise Refused("InvalidParameter", "diskSizeGB follows from uploadSizeBytes.", target="disk.diskSizeGB")
    if (properties.get("securityProfile") or {}).get("securityType", "").startswith("ConfidentialVM"):
        raise Refused("InvalidParameter", "Upload makes no disks of confidential VMs.", target="disk.securityProfile")
    return {**properties, "diskSizeGB": -(-(size - _FOOTER) // _GIB)}
