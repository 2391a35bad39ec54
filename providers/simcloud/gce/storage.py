"""Cloud Storage, as much as an image's archive needs: resumable uploads into a bucket, and objects.

Source: Google's "Perform resumable uploads" and the JSON API's reference.
"""

import base64
import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from providers.simcloud.exchange import Answer, Call
from providers.simcloud.gce import errors
from providers.simcloud.gce.errors import Refused
from providers.simcloud.gce.project import timestamp

BUCKET: Final = "peerpods-images"
_MULTIPLE: Final = 256 << 10
_UNFINISHED: Final = 308


@dataclass(slots=True)
class Session:
    """An upload that has begun."""

    bucket: str
    name: str
    data: bytearray = field(default_factory=bytearray)
    done: bool = False


class Storage:
    """All buckets: there is one, and more are made by whoever fills `buckets`."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {BUCKET: {}}
        self.received = 0  # bytes of all pieces that were kept
        self.keep_only: int | None = None  # of the next piece, for tests: storage may take less than was sent
        self._sessions: dict[str, Session] = {}

    def expire(self) -> None:
        """Forget every upload that is under way: Google does after a week."""
        self._sessions.clear()

    def perform(self, call: Call) -> Answer:
        """Raises Refused."""
        if call.action == "storage.uploads.begin":
            return self._begin(call)
        if call.action == "storage.uploads.write":
            return self._write(call)
        objects, name = self._bucket(call.form["bucket"]), unquote(call.form["object"])
        if name not in objects:
            raise Refused("notFound", f"No such object: {call.form['bucket']}/{name}")
        if call.action == "storage.objects.delete":
            del objects[name]
            return Answer(204, b"", errors.JSON)
        return _json(_shown(call.form["bucket"], name, objects[name]))

    def _begin(self, call: Call) -> Answer:
        self._bucket(call.form["bucket"])
        if call.form.get("uploadType") != "resumable":
            raise Refused("invalid", "simcloud plays resumable uploads only.")
        try:
            name = str(json.loads(call.body)["name"])
        except (ValueError, KeyError, TypeError):
            raise Refused("required", "Required") from None
        key = secrets.token_urlsafe(24)
        self._sessions[key] = Session(call.form["bucket"], name)
        base = f"http://{call.headers.get('Host', '')}{urlsplit(call.target).path}"
        return Answer(200, b"", errors.JSON, {"Location": f"{base}?uploadType=resumable&upload_id={key}"})

    def _write(self, call: Call) -> Answer:
        key = parse_qs(urlsplit(call.target).query).get("upload_id", [""])[0]
        session = self._sessions.get(key)
        if session is None:
            raise Refused("notFound", "The upload is not known, or has ended", http=410)
        said = call.headers.get("Content-Range", "")
        if re.fullmatch(r"bytes \*/\d+", said):
            return self._state(session)
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", said)
        if found is None or int(found[2]) + 1 - int(found[1]) != len(call.body) or session.done:
            raise Refused("badRequest", f"Content-Range '{said}' is not that of {len(call.body)} bytes")
        first, end, total = int(found[1]), int(found[2]) + 1, int(found[3])
        if first != len(session.data):
            raise Refused(
                "badRequest", f"{len(session.data)} bytes have arrived; the next cannot begin at {first}", http=503
            )
        if end < total and len(call.body) % _MULTIPLE:
            raise Refused("badRequest", "Every piece but the last has a multiple of 256 KiB")
        kept = call.body if self.keep_only is None else call.body[: self.keep_only]
        self.keep_only = None
        session.data += kept
        self.received += len(kept)
        if len(session.data) == total:
            session.done = True
            self.buckets[session.bucket][session.name] = bytes(session.data)
        return self._state(session)

    def _state(self, session: Session) -> Answer:
        if session.done:
            return _json(_shown(session.bucket, session.name, bytes(session.data)))
        headers = {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}
        return Answer(_UNFINISHED, b"", errors.JSON, headers)

    def _bucket(self, name: str) -> dict[str, bytes]:
        if name not in self.buckets:
            raise Refused("notFound", "The specified bucket does not exist.")
        return self.buckets[name]


def _shown(bucket: str, name: str, data: bytes) -> dict[str, Any]:
    return {
        "kind": "storage#object",
        "bucket": bucket,
        "name": name,
        "size": str(len(data)),
        "md5Hash": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode(),
        "timeCreated": timestamp(),
    }


def _json(content: dict[str, Any]) -> Answer:
    return Answer(200, errors.body(content), errors.JSON)
