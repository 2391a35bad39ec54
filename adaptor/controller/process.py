"""The controller as a process: opens the API server and the cloud, and performs the duties while it leads.

SIGTERM, SIGINT ─► duties cancelled ─► the Lease released, so that another may begin at once ─► exit
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

from adaptor import __version__, names
from adaptor.clock import Clock, RealClock
from adaptor.config import Config
from adaptor.controller import fate, gates
from adaptor.controller.api import NAMESPACE, NODE, PEER_POD, POD, Api, Kind, ServerApi
from adaptor.controller.certificates import Certificates
from adaptor.controller.duties import Duty, perform
from adaptor.controller.election import Election
from adaptor.controller.finisher import Finisher
from adaptor.controller.leftovers import Leftovers
from adaptor.controller.machines import Machines
from adaptor.controller.mirror import Mirror
from adaptor.controller.offers import Offers
from adaptor.controller.quota import Gatekeeper, annotation
from adaptor.controller.uninstall import Left, Uninstall
from adaptor.controller.voice import Events
from adaptor.errors import Unavailable
from adaptor.kube import peerpod
from adaptor.kube.client import open_client
from adaptor.sandbox.metered import open_metered
from adaptor.telemetry import logs
from adaptor.telemetry.http import Http
from providers.base import Ownership, Provider, SupportsSweep

_FAILED: Final = 1  # exit status: something of ours is left in the cluster

log = logs.get("controller")


def main(config: Config) -> int:
    """Run until a signal; the process's exit code. Raises: AdaptorError when it cannot start."""
    _set_up(config)
    return asyncio.run(_serve(config))


def uninstall(config: Config, stop: Sequence[tuple[Kind, str]], seconds: float) -> int:
    """Release all that holds the cluster back; the process's exit code. Raises: AdaptorError."""
    _set_up(config)
    return asyncio.run(_uninstall(config, stop, seconds))


def _set_up(config: Config) -> None:
    logs.setup(config.log.format, config.log.level)
    for warning in config.warnings:
        log.warning("configuration", note=warning)
    if (config.quota.cluster or config.quota.namespace) and not config.webhook.quota:
        log.warning("[quota] has limits, and webhook.quota is false: no pod is held back by them")


async def _serve(config: Config) -> int:
    async with AsyncExitStack() as stack:
        clock = RealClock()
        api, provider, cluster = await _open(config, stack)
        me = f"{os.uname().nodename}_{secrets.token_hex(4)}"  # a pod's machine name is the pod's
        election = Election(api, config.kubernetes.namespace, names.LEASE, me, config.controller.lease_duration, clock)
        if config.http.listen is not None:
            stack.callback(Http(config.http.listen, lambda: _readiness(election)).close)

        async def work() -> None:
            await perform(duties(config, api, provider, cluster, election.memory, clock), clock)

        log.info("ready", version=__version__, cloud=provider.name, cluster=cluster, me=me)
        leading = asyncio.create_task(election.lead(work))
        stopped = asyncio.create_task(_stopped())
        await asyncio.wait({leading, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for each in (leading, stopped):
            each.cancel()
        await asyncio.wait({leading, stopped})
        if not leading.cancelled():
            leading.result()
    return 0


def duties(
    config: Config, api: Api, provider: Provider, cluster: str, memory: MutableMapping[str, str], clock: Clock
) -> Mapping[str, Duty]:
    """All that a leader does, by name. Made anew for each time of leading: what a mirror showed then is past. `memory`
    is what one leader leaves to the next."""
    settings = config.controller
    voice = Events(api, clock)
    runtime_classes = config.kubernetes.runtime_classes
    pods = Mirror(api, POD, lambda found: gates.pod_facts(found, runtime_classes), clock)
    peerpods = Mirror(api, PEER_POD, peerpod.from_object, clock)
    nodes = Mirror(api, NODE, fate.node_facts, clock)
    namespaces = Mirror(api, NAMESPACE, annotation, clock)
    machines = Machines(provider, config.settings, cluster, clock)
    performed: dict[str, Duty] = {
        **{f"mirror of {each.kind.plural}": each.run for each in (pods, peerpods, nodes, namespaces)},
        "events": voice.run,
        "peerpods": Finisher(api, machines, peerpods, nodes, voice, clock, settings.node_grace).run,
        "quota": Gatekeeper(api, pods, namespaces, config.quota, voice, clock, provider).run,
    }
    if settings.webhook_certificates:
        performed["certificates"] = Certificates(api, settings, config.kubernetes.namespace, clock).run
    if settings.offerings:
        performed["offerings"] = Offers(api, provider, config.prices, config.kubernetes.namespace, clock).run
    if (sweep := _sweep(config, api, provider, cluster, pods, memory, clock)) is not None:
        performed["sweep"] = sweep
    return performed


def _sweep(
    config: Config,
    api: Api,
    provider: Provider,
    cluster: str,
    pods: Mirror[gates.PodFacts],
    memory: MutableMapping[str, str],
    clock: Clock,
) -> Duty | None:
    settings = config.sweep
    if not isinstance(provider, SupportsSweep) or not settings.interval:
        return None
    leftovers = Leftovers(
        api, provider, cluster, pods, memory, clock, grace=settings.grace, node_grace=config.controller.node_grace
    )
    return lambda: leftovers.run(settings.interval, delete=settings.delete)


async def _uninstall(config: Config, stop: Sequence[tuple[Kind, str]], seconds: float) -> int:
    async with AsyncExitStack() as stack:
        clock = RealClock()
        api, provider, cluster = await _open(config, stack)
        machines = Machines(provider, config.settings, cluster, clock)
        left = await Uninstall(api, machines, config.kubernetes.namespace, clock, seconds).run(stop)
    print(_told(left))
    return _FAILED if left.stuck else 0


def _told(left: Left) -> str:
    lines = [f"{left.finished} PeerPods released"]
    lines += [f"still runs, and may launch VMs yet: {each}" for each in left.running]
    lines += [f"left in the cloud, delete it yourself: {each}" for each in left.abandoned]
    lines += [f"not released: PeerPod {key}: {why}" for key, why in left.stuck.items()]
    if left.stuck:
        lines.append(
            "run this again; or, when their VMs are deleted otherwise, remove the finalizer: kubectl patch peerpod "
            "NAME -n NAMESPACE --type=json "
            """-p '[{"op":"remove","path":"/metadata/finalizers"}]' (of all who have one there)"""
        )
    return "\n".join(lines)


async def _open(config: Config, stack: AsyncExitStack) -> tuple[Api, Provider, str]:
    cluster = config.node.cluster
    if not cluster:
        raise Unavailable(
            "node.cluster must be set for the controller, and to the same value for every adaptor: by it the machines "
            "of this cluster are told from others in the account"
        )
    client = open_client(config.kubernetes)
    if client is None:
        raise Unavailable(
            "the controller needs a cluster: run it in a pod with a service account, or set kubernetes.kubeconfig"
        )
    stack.push_async_callback(client.close)
    provider = await open_metered(config.cloud.provider, config.settings, Ownership(cluster, ""))
    stack.push_async_callback(provider.aclose)
    return ServerApi(client), provider, cluster


def _readiness(election: Election) -> tuple[bool, Sequence[str]]:
    """For /readyz: who waits for its turn is ready too."""
    trouble = election.trouble
    if trouble:
        return False, (trouble,)
    return True, ("leading" if election.leading else "another leads",)


async def _stopped() -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    log.info("stopping")
    sys.stderr.flush()
