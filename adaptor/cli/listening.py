"""What `peerpods logs` and `console` do."""

import os
import sys
from argparse import Namespace
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from adaptor.cli import looking, places
from adaptor.config import Config
from adaptor.errors import AdaptorError, InvalidRequest, Unavailable
from adaptor.report import lines, model
from adaptor.report.model import Subject
from adaptor.sandbox import consoles
from adaptor.telemetry.terminal import plain
from providers.base import Ownership, SupportsConsole
from providers.errors import ProviderError

if TYPE_CHECKING:
    from adaptor.kube.reading import Reader

_POD_LOGS: Final = "/var/log/pods"  # kubelet's, on the node: <namespace>_<pod>_<uid>/<container>/<n>.log
_PATIENCE: Final = 60.0  # seconds for the adaptor's Pod to answer; it asks the cloud
_OVER: Final = ("failed", "stopping", "gone")


# -- logs -------------------------------------------------------------------------------------------


async def logs(arguments: Namespace) -> int:
    if arguments.file:
        namespace, name = model.wanted(arguments.pod, arguments.namespace or "")
        marks = [f"{namespace}/{name}" if namespace else name, arguments.sandbox]
        return _print_log(_from_file(arguments.file), marks)
    where = places.chosen(arguments)
    if where.node is not None:
        subjects = await looking.on_node(where.node, arguments)
        return _print_log(_from_files(_pod_logs()), _marks(subjects))
    from adaptor.report import cluster

    async with places.reader(where, arguments.system_namespace) as reader:
        namespace, name = model.wanted(arguments.pod, arguments.namespace or reader.namespace)
        classes = looking.runtime_classes(None)
        subjects = await cluster.of_pod(reader, namespace, name, arguments.sandbox, classes)
        adaptor = await cluster.adaptor_of(reader, subjects[0])
        stream = reader.log(adaptor, follow=arguments.follow, since=arguments.since, tail=None)
        return await _print_stream(stream, _marks(subjects), f"{arguments.system_namespace}/{adaptor}")


def _marks(subjects: list[Subject]) -> list[str]:
    found = [each.title for each in subjects]
    for each in subjects:
        found += [each.peerpod.sandbox, each.peerpod.instance_id, each.peerpod.token]
    return found


def _print_log(found: Iterable[str], marks: list[str]) -> int:
    shown = 0
    for line in found:
        fields = lines.parsed(line)
        if lines.concerns(fields, marks):
            print(lines.shown(fields), flush=True)
            shown += 1
    if not shown:
        print(f"peerpods: no line of it is about {marks[0]}", file=sys.stderr)
    return 0


async def _print_stream(stream: AsyncIterator[str], marks: list[str], log: str) -> int:
    shown = 0
    async with aclosing(stream) as found:  # type: ignore[type-var]
        async for line in found:
            fields = lines.parsed(line)
            if lines.concerns(fields, marks):
                print(lines.shown(fields), flush=True)
                shown += 1
    if not shown:
        print(f"peerpods: the log of {log} has no line about {marks[0]} (any more)", file=sys.stderr)
    return 0


def _from_file(path: str) -> Iterator[str]:
    if path == "-":
        yield from sys.stdin
        return
    yield from _from_files([Path(path)])


def _from_files(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                yield from file
        except OSError as error:
            raise Unavailable(f"the log {path} cannot be read: {error.strerror}") from error


def _pod_logs() -> list[Path]:
    found = sorted(Path(_POD_LOGS).glob("*adaptor*/adaptor/*.log"), key=lambda each: each.stat().st_mtime)
    if not found:
        raise Unavailable(
            f"there is no adaptor's log below {_POD_LOGS}: say where it is with --file; one that systemd runs is piped in: "
            "journalctl -u peerpods-adaptor -o cat | peerpods logs POD --file -"
        )
    return found


# -- console ----------------------------------------------------------------------------------------


async def console(arguments: Namespace) -> int:
    where = places.chosen(arguments)
    if where.node is not None:
        found = await _from_node(where.node, arguments)
    else:
        async with places.reader(where, arguments.system_namespace) as reader:
            found = await _from_cluster(reader, arguments)
    text = found if arguments.raw else plain(found)
    kept = text.splitlines()
    if arguments.tail is not None:
        kept = kept[-arguments.tail :] if arguments.tail > 0 else []
    print("\n".join(kept))
    return 0


async def _from_node(config: Config, arguments: Namespace) -> str:
    from adaptor.report import node

    namespace, name = model.wanted(arguments.pod, arguments.namespace or "")
    state_dir = Path(config.node.state_dir)
    kept = node.kept_console(state_dir, namespace, name)
    if arguments.kept:
        if kept is None:
            raise InvalidRequest(f"no console was kept of a VM of {arguments.pod} on this node")
        return kept
    try:
        subject = (await looking.on_node(config, arguments))[0]
        if kept is not None and subject.peerpod.phase in _OVER:
            return kept
        return await _asked(config, subject)
    except AdaptorError:
        if kept is None:
            raise
        return kept  # the sandbox is gone, or its VM


async def _from_cluster(reader: "Reader", arguments: Namespace) -> str:
    """By the adaptor on the node, which has the rights; with --config by the cloud itself, with this machine's."""
    from adaptor.report import cluster

    namespace, name = model.wanted(arguments.pod, arguments.namespace or reader.namespace)
    classes = looking.runtime_classes(None)
    subject = (await cluster.of_pod(reader, namespace, name, arguments.sandbox, classes))[0]
    if arguments.config and not arguments.kept:
        from adaptor.config import load

        return await _asked(load(arguments.config, os.environ), subject)
    adaptor = await cluster.adaptor_of(reader, subject)
    command = ["peerpods", "console", subject.title, "--local", "--raw", *(["--kept"] if arguments.kept else [])]
    try:
        status, out, said = await reader.run(adaptor, command, _PATIENCE)
    except AdaptorError as error:
        on_node = f"on the node {subject.peerpod.node} itself: peerpods console {subject.title} --local"
        status, out, said = -1, "", f"{error}. It can be had {on_node}"
    if status == 0:
        return out
    if kept := await _kept_in_log(reader, adaptor, subject):
        return kept
    raise Unavailable(said.strip().removeprefix("peerpods: ") or f"`peerpods console` ended with {status} on the node")


async def _kept_in_log(reader: "Reader", adaptor: str, subject: Subject) -> str:
    """The last lines that the adaptor has logged of a VM that failed; empty where it has not."""
    marks, found = _marks([subject]), ""
    async for line in reader.log(adaptor, follow=False, since=None, tail=None):
        fields = lines.parsed(line)
        if isinstance(fields, dict) and fields.get("message") == consoles.MESSAGE and lines.concerns(fields, marks):
            head = f"# pod {fields.get('pod')}, VM {fields.get('instance')}\n# {fields.get('why')}"
            place = f"# its last lines, from the adaptor's log; more is in {fields.get('file')} on the node"
            found = "\n".join([head, place, *map(str, fields.get("console") or ())])
    return found


async def _asked(config: Config, subject: Subject) -> str:
    """The cloud's word. Raises: Unavailable."""
    from adaptor import daemon

    instance = subject.peerpod.instance_id
    if not instance:
        raise Unavailable(f"{subject.title} has no VM yet whose console could be read")
    provider = await daemon.open_provider(config, Ownership(config.node.cluster or "", config.node.name))
    try:
        if not isinstance(provider, SupportsConsole):
            raise Unavailable(f"the {provider.name} provider cannot read consoles")
        text = await provider.console(instance)
    except ProviderError as error:
        raise Unavailable(str(error)) from error
    finally:
        await provider.aclose()
    if not text.strip():
        raise Unavailable(
            f"{provider.name} has nothing of the console of {instance} yet: clouds lag by seconds to minutes"
        )
    return text
