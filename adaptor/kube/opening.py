"""Puts a node's side of the cluster together, as [kubernetes] says. Apart from the daemon, for it loads the library."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

from lightkube import AsyncClient

from adaptor.clock import Clock
from adaptor.config import Config
from adaptor.kube import client as api
from adaptor.kube.capacity import Capacity, Demand
from adaptor.kube.node import NodeCluster
from adaptor.kube.place import Place
from adaptor.kube.secrets import PullSecrets
from adaptor.telemetry import logs
from providers.base import Provider

Deed = Callable[[], Awaitable[None]]

log = logs.get("kube")


def open_cluster(
    where: Place,
    config: Config,
    provider: Provider,
    clock: Clock,
    sandboxes: Callable[[], int],
    ready: Callable[[], bool],
) -> NodeCluster:
    """`sandboxes`: how many this node has; `ready`: whether a new pod would find everything up.

    Raises: Unavailable when the credentials there cannot be used. The API server itself may be away.
    """
    settings = config.kubernetes
    client = api.connect(where)
    log.info("this node is a cluster's", by=str(where))
    demand = Demand(client, config.node.name, config.limits.peerpods_per_node, sandboxes)
    deeds: dict[str, Deed | None] = {
        "status": Capacity(client, demand, clock).run,
        "device-plugin": lambda: _device_plugin(client, demand, ready, clock),
        "off": None,
    }
    advertise = deeds[settings.capacity]
    return NodeCluster(
        client,
        provider,
        clock,
        config.node.name,
        events=settings.events,
        tag_labels=getattr(config.settings, "tag_labels", ()),
        pull_secrets=PullSecrets(settings, client, clock),
        deeds=[advertise] if advertise else [],
    )


async def _device_plugin(client: AsyncClient, demand: Demand, ready: Callable[[], bool], clock: Clock) -> None:
    def load() -> Any:
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its core writes to stderr, past our log
        from adaptor.kube import device_plugin  # and with it gRPC

        return device_plugin

    await (await asyncio.to_thread(load)).advertise(client, demand, ready, clock)
