"""The demo's worker node with pod VMs on this very machine: no cloud, but QEMU, or namespaces in place of VMs.

async with LocalWorld(directory, image="/…/min-amd64") as world:
await world.start_cloud()           there is none: this names the settings
await world.start_adaptor()
...as with World
"""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from adaptor.demo.world import World
from providers.local import links
from providers.local.config import LocalConfig
from providers.local.machines import Machines

# What a pod's agent is allowed stands in its VM's image, and getting into the pod is not among it. Whoever wants that says
# so in the pod's initdata, where it is measured: the calls that the demo makes, `kubectl exec` included.
_CALLS: Final = (
    *("CreateSandbox", "CreateContainer", "StartContainer", "RemoveContainer", "DestroySandbox", "CopyFile"),
    *("SignalProcess", "WaitProcess", "ReadStream", "StatsContainer", "GetOOMEvent", "GuestDetails"),
    *("ExecProcess", "WriteStream", "CloseStdin", "TtyWinResize", "RemoveStaleVirtiofsShareMounts"),
)
INITDATA: Final = "\n".join(
    (
        'version = "0.1.0"\nalgorithm = "sha256"\n[data]\n"policy.rego" = """\npackage agent_policy',
        *(f"default {call}Request := true" for call in _CALLS),
        '"""\n',
    )
)
ANNOTATION: Final = "io.katacontainers.config.hypervisor.cc_init_data"
_START_TIMEOUT: Final = "240s"  # under TCG, on a busy machine
_POLL: Final = 0.05


class LocalWorld(World):
    """World without a simulated cloud. `vmm`: qemu or namespace; `local`: more of the provider's settings."""

    def __init__(
        self,
        directory: Path,
        *,
        image: str = "",
        vmm: str = "qemu",
        local: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            directory, provider="local", settings={"guest": {"start_timeout": _START_TIMEOUT}, **(settings or {})}
        )
        self.vmm = vmm
        self._image = image
        self._local = local or {}
        self._machines = Machines(LocalConfig(vmm=vmm, state_dir=str(self.place)))

    @property
    def place(self) -> Path:
        """The provider's state directory."""
        return self.directory / "local"

    async def start_cloud(self, *options: str) -> None:
        """Nothing is started: the machine itself is the cloud. What stays for the next VM is made before the first."""
        await asyncio.to_thread(self._lay_out)
        given = {"image": self._image} if self._image else {}
        self.cloud = {
            "provider": "local",
            "settings": {"vmm": self.vmm, "state_dir": str(self.place), **given, **self._local},
        }

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, trace)
        await asyncio.to_thread(self._take_away)

    def _take_away(self) -> None:
        """VMs outlive their adaptor; after a failure some may be left."""
        for seen in self._machines.everything():
            self._machines.delete(seen.intent.id)
        links.remove(LocalConfig().bridge)

    def _lay_out(self) -> None:
        links.ensure_bridge(LocalConfig().bridge, LocalConfig().subnet)
        self._machines.everything()

    async def instances(self) -> list[dict[str, Any]]:
        """Every VM that is there, or has just been."""
        found = []
        for path in sorted(self.place.glob("vms/*/intent.json")):
            with contextlib.suppress(OSError, ValueError):  # it is being deleted
                intent = json.loads(path.read_text())
                console = path.with_name("console.log").read_text(errors="replace")
                found.append({"id": intent["id"], "state": "running", "console": console})
        return found

    async def living(self) -> list[str]:
        """Ids of the VMs."""
        return [path.name for path in sorted(self.place.glob("vms/vm-*"))]

    async def no_instance_lives(self) -> None:
        """Return once every VM is gone; raises TimeoutError."""
        async with asyncio.timeout(30):
            while await self.living():
                await asyncio.sleep(_POLL)

    def console(self) -> str:
        """What the VMs' consoles end in, for diagnosis."""
        return "".join(path.read_text(errors="replace")[-3000:] for path in self.place.glob("vms/*/console.log"))
