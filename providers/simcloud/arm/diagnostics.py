"""Boot diagnostics: what a VM's serial console has shown, in a blob of storage that Azure manages, behind a SAS."""

import hashlib
import hmac
import re
import secrets
import time
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

from providers.simcloud.arm.desk import Asked, Handlers, Reply
from providers.simcloud.arm.errors import Refused
from providers.simcloud.arm.vm_view import Vm
from providers.simcloud.arm.vms import Machines

RETRIEVE: Final = "VirtualMachines.RetrieveBootDiagnosticsData"
BLOB: Final = "Blobs.Get"  # and HEAD: asked without a token, the SAS is enough
CONTAINER: Final = "bootdiagnostics"  # of this service's own paths; Azure has a storage account's host
_DEFAULT, _LONGEST = 120, 1440  # minutes that a SAS is good for


class Diagnostics:
    """The consoles of all machines."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._key = secrets.token_bytes(32)

    def handlers(self) -> Handlers:
        """By action."""
        return {RETRIEVE: self._retrieve, BLOB: self.blob}

    def _retrieve(self, asked: Asked) -> Reply:
        vm = self._machines.visible(asked)
        minutes = asked.query.get("sasurlexpirationtimeinminutes", str(_DEFAULT))
        if not minutes.isdecimal() or not 1 <= int(minutes) <= _LONGEST:
            raise Refused(
                "InvalidParameter", f"sasUriExpirationTimeInMinutes must be 1 to {_LONGEST}, not '{minutes}'."
            )
        profile = vm.resource.properties.get("diagnosticsProfile") or {}
        if not (profile.get("bootDiagnostics") or {}).get("enabled"):
            raise Refused(  # Azure's own words are not known here
                "OperationNotAllowed",
                f"Boot diagnostics is not enabled for VM '{vm.resource.name}'.",
                status=409,
            )
        until = int(time.time()) + 60 * int(minutes)
        return Reply(
            body={
                "consoleScreenshotBlobUri": self._link(asked, vm, "screenshot.bmp", until),
                "serialConsoleLogBlobUri": self._link(asked, vm, "serialconsole.log", until),
            }
        )

    def blob(self, asked: Asked) -> Reply:
        """Blob storage's GET and HEAD, with a range or without."""
        blob, until = asked.names["blob"], asked.query.get("se", "")
        if not hmac.compare_digest(asked.query.get("sig", ""), self._signature(blob, until)) or _over(until):
            raise Refused("AuthenticationFailed", "Server failed to authenticate the request.", status=403)
        vm = next((vm for vm in self._machines.all.values() if blob == _blob(vm, "serialconsole.log")), None)
        if vm is None or vm.life is None:
            raise Refused("BlobNotFound", "The specified blob does not exist.", status=404)
        content = vm.life.machine.console.read()
        headers = {"x-ms-blob-type": "AppendBlob", "Accept-Ranges": "bytes"}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("x-ms-range") or asked.headers.get("Range", ""))
        if found is None:  # blob storage heeds no other form: all of it
            return Reply(body=content, headers=headers)
        first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
        if first >= len(content) or first > last:
            raise Refused(
                "InvalidRange", "The range specified is invalid for the current size of the resource.", status=416
            )
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return Reply(206, content[first : last + 1], headers)

    def _link(self, asked: Asked, vm: Vm, name: str, until: int) -> str:
        blob, end = _blob(vm, name), datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        query = {"sv": "2018-03-28", "sr": "b", "se": end, "sp": "r", "sig": self._signature(blob, end)}
        return f"{asked.base}/{CONTAINER}/{blob}?{urlencode(query)}"

    def _signature(self, blob: str, until: str) -> str:
        return hmac.new(self._key, f"{blob}\0{until}".encode(), hashlib.sha256).hexdigest()


def _blob(vm: Vm, name: str) -> str:
    return f"{vm.resource.name}.{vm.id}.{name}"


def _over(until: str) -> bool:
    return datetime.fromisoformat(until) < datetime.now(UTC)
