"""What `peerpods ps`, `describe` and `trace` do."""

import json
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from adaptor.cli import places
from adaptor.config import Config, Kubernetes
from adaptor.report import model, text
from adaptor.report.model import Subject
from providers.settings import read


async def ps(arguments: Namespace) -> int:
    where = places.chosen(arguments)
    if where.node is not None:
        found = await _on_node(where.node)
        found = [each for each in found if arguments.namespace in (None, each.peerpod.namespace)]
        place = f"on the node {where.node.node.name}"
    else:
        from adaptor.report import cluster

        async with places.reader(where, arguments.system_namespace) as reader:
            namespace = None if arguments.all_namespaces else arguments.namespace or reader.namespace
            found = await cluster.listed(reader, namespace)
        place = f"in the namespace {namespace}; -A lists all" if namespace else "in the cluster"
    if arguments.node:
        found = [each for each in found if each.peerpod.node == arguments.node]
        place = f"of the node {arguments.node}"
    now = time.time()
    if arguments.output == "json":
        print(json.dumps([text.as_json(each, now) for each in found], indent=2, ensure_ascii=False))
        return 0
    for note in sorted({note for each in found for note in each.notes}):
        print(f"peerpods: {note}", file=sys.stderr)
    if not found:
        print(f"no peer pods {place}")
        return 0
    local = where.node is not None
    namespaces = local or arguments.all_namespaces
    wide = arguments.output == "wide"
    print(text.listing(found, now, wide=wide, sessions=local, namespaces=namespaces))
    return 0


async def describe(arguments: Namespace) -> int:
    (first, *others), now = await _subjects(arguments, whole=True), time.time()
    if arguments.output == "json":
        events = [{"at": each.at, "reason": each.reason, "message": each.message} for each in first.events]
        print(json.dumps({**text.as_json(first, now), "events": events}, indent=2, ensure_ascii=False))
    else:
        print(text.page(first, others, now))
    return 0


async def trace(arguments: Namespace) -> int:
    (first, *_), now = await _subjects(arguments, whole=False), time.time()
    print(text.trace(first, now))
    return 0


async def _subjects(arguments: Namespace, *, whole: bool) -> list[Subject]:
    """The pod's; the first, who is meant, with everything that can be known of it if `whole`."""
    where = places.chosen(arguments)
    if where.node is not None:
        return await on_node(where.node, arguments)
    from adaptor.report import cluster

    async with places.reader(where, arguments.system_namespace) as reader:
        config, note = await places.settings(reader, arguments.config) if whole else (None, "")
        namespace, name = model.wanted(arguments.pod, arguments.namespace or reader.namespace)
        found = await cluster.of_pod(reader, namespace, name, arguments.sandbox, runtime_classes(config))
        if whole:
            first = await cluster.completed(reader, found[0], config.settings if config else None)
            found = [first if first.link or not first.peerpod.instance_id else _noted(first, note), *found[1:]]
    return found


async def on_node(config: Config, arguments: Namespace) -> list[Subject]:
    """The pod's sandboxes in the node's journal. Raises: InvalidRequest where there is none."""
    from adaptor.report import node

    namespace, name = model.wanted(arguments.pod, arguments.namespace or "")
    return node.of_pod(await _on_node(config), namespace, name, arguments.sandbox)


def runtime_classes(config: Config | None) -> tuple[str, ...]:
    """Those whose pods are peer pods."""
    known: Kubernetes = config.kubernetes if config else read(Kubernetes, {}, where="kubernetes", env={}, faults=[])
    return known.runtime_classes


async def _on_node(config: Config) -> list[Subject]:
    from adaptor.report import node

    return await node.listed(
        Path(config.node.state_dir),
        config.node.relay_socket,
        node=config.node.name,
        cloud=config.cloud.provider,
        settings=config.settings,
    )


def _noted(subject: Subject, note: str) -> Subject:
    return replace(subject, notes=(*subject.notes, note)) if note else subject
