"""A simulated cloud as a whole: built here once, from options."""

import functools
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Final

from providers.simcloud import control
from providers.simcloud.exchange import Cloud, InstanceView
from providers.simcloud.faults import Faults
from providers.simcloud.machines.base import Host, PaperHost
from providers.simcloud.machines.namespace import NamespaceHost
from providers.simcloud.options import Options, SimcloudError
from providers.simcloud.server import Front

_DEFAULT_NETWORK: Final = "172.31.0.0/16"  # EC2's own choice for every account


class Simcloud:
    """One cloud, running. Many can live in one process; they share nothing. Made by `Simcloud.start`.

    endpoint_url   where SDKs find it
    faults         what goes wrong: see `faults.Faults`
    calls          every action received, in order, refused ones too
    facts          the ids to launch with, by name
    region, ami, arm_ami, subnet, security_group   EC2's facts
    """

    def __init__(
        self, options: Options, cloud: Cloud, host: Host, front: Front, faults: Faults, stack: AsyncExitStack
    ) -> None:
        self.options = options
        self.faults = faults
        self.calls = front.calls
        self.endpoint_url = f"http://{options.host}:{front.port}"
        self.title = cloud.title
        self.facts = facts = cloud.facts()
        self.region, self.ami, self.arm_ami = facts["region"], facts.get("ami", ""), facts.get("arm_ami", "")
        self.subnet, self.security_group = facts.get("subnet", ""), facts.get("security_group", "")
        self._cloud = cloud
        self._host = host
        self._stack = stack

    @classmethod
    async def start(cls, options: Options) -> "Simcloud":
        """Listen, ready for calls. Raises SimcloudError, having left nothing."""

        def about() -> dict[str, Any]:
            return made.about()

        async with AsyncExitStack() as stack:
            host = await _open_host(options)
            stack.push_async_callback(host.aclose)
            faults = Faults()
            cloud = _open_cloud(options, host, faults)
            stack.push_async_callback(cloud.fleet.aclose)
            front = Front(cloud, faults, control.application(cloud, faults, about))
            stack.push_async_callback(front.aclose)
            await front.start(options.host, options.port)
            made = cls(options, cloud, host, front, faults, stack.pop_all())
        return made

    async def close(self) -> None:
        """End everything: connections first, then instances, then their network. May be repeated."""
        await self._stack.aclose()

    def instances(self) -> list[InstanceView]:
        """Every instance there has been, oldest first."""
        return self._cloud.instances()

    def age(self, resource_id: str, seconds: float) -> None:
        """Have an instance or volume be made so many seconds earlier. Raises KeyError for an unknown one."""
        self._cloud.age(resource_id, seconds)

    @property
    def network(self) -> str:
        """The default VPC's range."""
        return self._host.network

    @property
    def worker_address(self) -> str:
        """Where instances see this side of their network; empty when they do not really boot."""
        return self._host.worker_address

    def environment(self) -> dict[str, str]:
        """What makes SDKs and command lines use this cloud. The credentials are not anybody's."""
        return self._cloud.environment(self.endpoint_url)

    def settings(self) -> tuple[str, dict[str, Any]]:
        """The peerpods provider that talks to this cloud, and its table."""
        return self._cloud.settings(self.endpoint_url)

    def about(self) -> dict[str, Any]:
        """What this cloud is, as plain values."""
        provider, table = self.settings()
        return {
            "endpoint_url": self.endpoint_url,
            "cloud": self.options.cloud,
            "instances": self.options.instances,
            "network": self.network,
            "worker_address": self.worker_address,
            "environment": self.environment(),
            "provider": provider,
            "settings": table,
            **self.facts,
        }


def _open_cloud(options: Options, host: Host, faults: Faults) -> Cloud:
    """Imports one cloud only: moto alone takes half a second."""
    match options.cloud:
        case "arm":
            try:
                from providers.simcloud.arm.service import Arm
            except ModuleNotFoundError as error:
                raise SimcloudError(f"playing arm needs {error.name}: pip install 'peerpods[sim,azure]'") from error

            return Arm(options, host, faults)
        case "ec2":
            with _one_reader_of_models():
                from providers.simcloud.ec2.service import Ec2

            return Ec2(options, host, faults)
        case "gce":
            try:
                from providers.simcloud.gce.service import Gce
            except ModuleNotFoundError as error:
                raise SimcloudError(f"playing gce needs {error.name}: pip install 'peerpods[sim,gcp]'") from error

            return Gce(options, host, faults)
    raise AssertionError(f"Options.of lets nothing else pass: {options.cloud}")


@contextmanager
def _one_reader_of_models() -> Iterator[None]:
    """While moto is imported, it asks three sessions of the SDK for names of regions, and each reads EC2's service
    model for itself: a quarter of the time that a cloud takes to start."""
    import botocore.session as sdk

    own = sdk.create_loader
    sdk.create_loader = functools.cache(own)
    try:
        yield
    finally:
        sdk.create_loader = own


async def _open_host(options: Options) -> Host:
    if options.instances == "namespace":
        return await NamespaceHost.open(options.program, options.network)
    return PaperHost(options.network or _DEFAULT_NETWORK)
