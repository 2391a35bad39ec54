"""`peerpods journal replay` and `rebuild`: the journal beside what relay and cloud say."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from adaptor import daemon
from adaptor.clock import RealClock
from adaptor.config import Config
from adaptor.errors import AdaptorError, Unavailable
from adaptor.relay.client import RelayClient, Session
from adaptor.sandbox import journal_file, recovery, state_lock
from adaptor.sandbox import rebuild as rebuilding
from adaptor.sandbox.model import Event, SandboxState, fold
from adaptor.sandbox.recovery import Plan
from adaptor.sandbox.watch import instances_of
from providers.base import Instance, Provider
from providers.errors import ProviderError

T = TypeVar("T")

_SHOWN_ID: Final = 12  # characters of a sandbox id, as crictl shows them
_CONNECT_PATIENCE: Final = 5.0  # seconds for the relay's socket


def replay(config: Config, path: Path) -> int:
    """Print the plan that recovery would make now. Raises Unavailable, JournalFault."""
    states = journal_file.read_states(path)
    seen = asyncio.run(_look(config, states))
    for note in seen.notes:
        print(f"note: {note}")
    plan = _plan(states, seen)
    if not plan:
        print("an adaptor that started now would find nothing to do")
        return 0
    print("an adaptor that started now would:")
    for action in plan:
        fields = dict(action.fields())
        doing, sandbox, pod = fields.pop("action"), fields.pop("sandbox", ""), fields.pop("pod", "")
        rest = "  ".join(f"{key}: {value}" for key, value in fields.items())
        print(f"  {doing:<14} {pod:<32} {sandbox[:_SHOWN_ID]:<{_SHOWN_ID}}  {rest}".rstrip())
    return 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """What relay and cloud say; None = it could not be asked, and `notes` say why."""

    sessions: Sequence[Session] | None
    instances: Mapping[str, Instance] | None
    notes: Sequence[str]


async def _look(config: Config, states: Mapping[str, SandboxState]) -> _Seen:
    notes: list[str] = []
    sessions: Sequence[Session] | None = None
    instances: Mapping[str, Instance] | None = None
    try:
        sessions = await _sessions(config)
    except AdaptorError as error:
        notes.append(f"{error}. What follows is what a starting adaptor does after bringing up a new relay")
    try:
        instances = await _with_provider(config, lambda provider: instances_of(provider, states))
    except AdaptorError as error:
        notes.append(f"{error}. What follows is what a starting adaptor does before the cloud answers")
    return _Seen(sessions, instances, notes)


async def _sessions(config: Config) -> Sequence[Session]:
    return await RelayClient(config.node.relay_socket).sessions()


async def _with_provider(config: Config, ask: Callable[[Provider], Awaitable[T]]) -> T:
    """What the cloud answers. Raises Unavailable."""
    provider = await daemon.open_provider(config, daemon.ownership(config, make=False))
    try:
        return await ask(provider)
    except ProviderError as error:
        raise Unavailable(f"the cloud could not be asked: {error}") from error
    finally:
        await provider.aclose()


def _plan(states: Mapping[str, SandboxState], seen: _Seen) -> Plan:
    return recovery.plan(states, seen.sessions or (), seen.instances, RealClock().wall())


def rebuild(config: Config, path: Path, *, dry_run: bool, drop_unmatched: bool) -> int:
    """Put a new journal in the place of the one at `path`.

    Raises: Conflict while an adaptor runs; Unavailable when relay or cloud cannot be asked, or lack a running pod's VM.
    """
    with state_lock.held(path.parent):
        return _rebuild(config, path, dry_run=dry_run, drop_unmatched=drop_unmatched)


def _rebuild(config: Config, path: Path, *, dry_run: bool, drop_unmatched: bool) -> int:
    sessions, instances = asyncio.run(_evidence(config))
    entries = rebuilding.rebuild(sessions, instances, journal_file.salvage(path) if path.exists() else {})
    kept = {sandbox for sandbox, _ in entries}
    lost = [session.sandbox_id for session in rebuilding.running(sessions) if session.sandbox_id not in kept]
    _print_findings(entries, lost, instances)
    if lost and not drop_unmatched:
        raise Unavailable(
            f"{len(lost)} running pods have no VM in the cloud's list for node {config.node.name}, and would end: nothing "
            "was changed. Are node.name, node.cluster and the cloud's settings those of the lost journal? If those VMs "
            "are truly gone: --drop-unmatched"
        )
    if dry_run:
        print("nothing was changed (--dry-run)")
        return 0
    events = [(sandbox, event) for sandbox, own in entries for event in own]
    old = journal_file.replace(path, RealClock().wall(), daemon.ownership(config, make=False), events)
    print(f"made {path} with {len(entries)} sandboxes{f'; the old one is {old}' if old else ''}. Start the adaptor now")
    return 0


async def _evidence(config: Config) -> tuple[Sequence[Session], Sequence[Instance]]:
    sessions: Sequence[Session] = ()
    if await _has_relay(config.node.relay_socket):
        sessions = await _sessions(config)
    else:
        print(f"no relay runs at {config.node.relay_socket}: no pod does")
    return sessions, await _with_provider(config, lambda provider: provider.list())


async def _has_relay(path: str) -> bool:
    """Whether anything listens; a relay that listens and does not answer is another matter."""
    try:
        async with asyncio.timeout(_CONNECT_PATIENCE):
            _, writer = await asyncio.open_unix_connection(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except OSError as error:  # TimeoutError is one, without words
        raise Unavailable(f"the relay at {path} cannot be asked: {str(error) or 'it does not answer'}") from error
    writer.close()
    await writer.wait_closed()
    return True


def _print_findings(
    entries: Sequence[tuple[str, Sequence[Event]]], lost: Sequence[str], instances: Sequence[Instance]
) -> None:
    owned = set()
    for sandbox, own in entries:
        state = fold(own)
        owned.add(state.instance_id)
        print(f"  adopt          {state.spec.pod:<32} {sandbox[:_SHOWN_ID]:<{_SHOWN_ID}}  VM {state.instance_id}")
    if unknown := sum(fold(own).network is None for _, own in entries):
        print(
            f"note: the tunnels of {unknown} of these pods are not known: they go on as they are, and no adaptor looks for "
            "what is left of others before these pods have ended"
        )
    for sandbox in lost:
        print(
            f"  no VM          {'':<32} {sandbox[:_SHOWN_ID]:<{_SHOWN_ID}}  the relay carries it, the cloud does not list it"
        )
    for instance in instances:
        if instance.id not in owned:
            print(f"  leave to sweep {instance.name:<32} {'':<{_SHOWN_ID}}  VM {instance.id} ({instance.state})")
