"""This host's machines: created, looked at, ended. Blocking, for threads; errors are OSError and those of errors.py.

What is written down comes first, what runs comes after it; whatever was interrupted in between is finished by whoever
comes next, this process or another.
"""

import os
import re
import socket
import ssl
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from providers.base import CONSOLE_LIMIT, Instance, InstanceState, LaunchSpec, Ownership
from providers.errors import Capacity, InvalidSpec, NotFound, Quota
from providers.local import hosts, links, processes, requests, sandbox, vm
from providers.local.config import LocalConfig
from providers.local.errors import Refused
from providers.local.intents import Book
from providers.local.requests import Ending, Intent, Seen

# What a kernel says before it stops; under TCG that may have been QEMU's fault.
_PANIC: Final = re.compile(rb"Kernel panic|double fault|BUG: unable to handle|general protection fault")
_ASKED: Final = 5.0  # seconds for a guest's TLS answer
_LATE: Final = 15.0  # seconds after the deadline for which another power-on may still come


class Machines:
    """Of one state directory. `program`: what namespaces run instead of the guest."""

    def __init__(self, config: LocalConfig, program: Sequence[str] = ()) -> None:
        self._config = config
        self._program = tuple(program)
        self._book = Book(config.state_dir)

    def create(self, spec: LaunchSpec, token: str, owner: Ownership) -> Instance:
        """See Provider.create."""
        id, digest = requests.instance_id(owner, token), requests.digest(spec)
        with self._book.locked():
            ending = self._book.endings(time.time()).get(id)
            intent = self._book.intent(id)
            found = ending or intent
            if found is not None and found.digest != digest:
                raise Refused(InvalidSpec, "token", "this token was used for a launch with other parameters")
            if ending is not None:
                return requests.ended(ending)
            if intent is None:
                intent = self._intend(id, digest, spec, token, owner)
                self._book.add(intent, spec.user_data)
        return self._start(intent)

    def describe(self, ids: Collection[str]) -> dict[str, Instance]:
        """See Provider.get."""
        endings = self._book.endings(time.time())
        found: dict[str, Instance] = {}
        for id in filter(requests.is_id, ids):
            if id in endings:
                found[id] = requests.ended(endings[id])
            elif (intent := self._book.intent(id)) is not None:
                found[id] = requests.instance(self._seen(intent))
        return found

    def everything(self) -> list[Seen]:
        """All that is not gone, whoever's; deletions that were interrupted are finished."""
        self._book.prepare()
        endings = self._book.endings(time.time())
        intents = self._book.intents()
        for intent in intents:
            if intent.id in endings:
                self._take_away(intent)
        return [self._seen(intent) for intent in intents if intent.id not in endings]

    def delete(self, id: str) -> None:
        """See Provider.delete: it is written down as ended before it is."""
        if not requests.is_id(id):
            return
        with self._book.locked():
            intent = self._book.intent(id)
            if intent is None:
                return
            now = time.time()
            ending = Ending(id, intent.name, intent.instance_type, intent.digest, now, intent.image, dict(intent.tags))
            if id not in self._book.endings(now):
                self._book.remember(ending, now)
        self._take_away(intent)

    def console(self, id: str) -> bytes:
        """The end of what it printed. Raises Refused for no machine."""
        if not requests.is_id(id) or self._book.intent(id) is None:
            raise Refused(NotFound, "machine", "there is no such machine on this host")
        try:
            with open(f"{self._book.directory(id)}/console.log", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - CONSOLE_LIMIT))
                return file.read()
        except FileNotFoundError:
            return b""

    def look_at_host(self) -> str:
        """Whether machines could be started, and how: kvm, tcg or namespace. Raises Refused."""
        if not self._config.isolated:
            sandbox.check()
            return "namespace"
        return hosts.find(self._config).accel

    def usage(self) -> list[Intent]:
        """All that take of this host's memory."""
        endings = self._book.endings(time.time())
        return [each for each in self._book.intents() if each.id not in endings]

    # -- under TCG: a second power-on ------------------------------------------------------------------

    def may_need_another(self, intent: Intent) -> bool:
        """Whether its guest may still be found dead of its emulation."""
        age = time.time() - intent.created_at
        return intent.accel == "tcg" and intent.launches == 1 and age < self._config.ready_timeout + _LATE

    def panicked(self, id: str) -> bool:
        """Whether it ended, and its kernel had said why."""
        process = processes.read(f"{self._book.directory(id)}/{vm.PIDFILE}")
        try:
            return not processes.alive(process) and _PANIC.search(self.console(id)) is not None
        except Refused:
            return False

    def answers(self, intent: Intent) -> bool:
        """Whether its guest speaks TLS. A connection alone says nothing: QEMU's own network takes any."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection((intent.address, self._config.guest_port), _ASKED) as link:
                link.settimeout(_ASKED)
                context.wrap_socket(link).close()
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return False
        except ssl.SSLError:
            return True  # an alert is an answer
        except OSError:
            return False
        return True

    def start_again(self, id: str) -> bool:
        """Power-cycle it, once in its life; whether that was done."""
        with self._book.machine(id) as held:
            intent = self._book.intent(id) if held else None
            if intent is None or intent.launches != 1:
                return False
            vm.end(intent, self._book.directory(id))
            # Without it, and held, it is PENDING to whoever looks meanwhile.
            os.unlink(f"{self._book.directory(id)}/{vm.PIDFILE}")
            again = replace(intent, launches=2, boot_id=processes.boot_id())
            self._book.change(again)
            vm.start(again, self._book.directory(id), self._config)
        return True

    # -- one machine ------------------------------------------------------------------------------------

    def _intend(self, id: str, digest: str, spec: LaunchSpec, token: str, owner: Ownership) -> Intent:
        config = self._config
        vmm = "qemu" if config.isolated else "namespace"
        network = self._network()
        accel = self.look_at_host()
        if config.isolated:
            vm.read_image(spec.image or config.image or "")
        others = self._book.intents()
        self._check_room(spec, others)
        address = requests.free_address(config, network, {each.address for each in others})
        if address is None:
            raise Refused(Capacity, "addresses", f"every address of local.subnet, {config.subnet}, is a VM's")
        return Intent(
            id,
            token,
            spec.name,
            spec.instance_type,
            spec.image or config.image or "",
            digest,
            time.time(),
            address,
            vmm,
            network,
            config.boot,
            config.user_data,
            accel,
            requests.tee_of(spec, config).value,
            requests.disk_gib(spec),
            requests.tags_of(spec, token, owner, config),
            boot_id=processes.boot_id(),
        )

    def _network(self) -> str:
        if not self._config.isolated or self._config.network == "tap":
            return "tap"
        if self._config.network == "user":
            return "user"
        return "tap" if links.may_make() and os.path.exists("/dev/net/tun") else "user"

    def _check_room(self, spec: LaunchSpec, others: Sequence[Intent]) -> None:
        config = self._config
        if len(others) >= config.machines_limit:
            raise Refused(Quota, "machines", f"{len(others)} VMs are there, and local.machines_limit allows no more")
        if not config.isolated:
            return
        _, wanted = requests.size_of(spec.instance_type)
        if config.memory_limit_mib is not None:
            taken = sum(requests.machine(each)[1] for each in others)
            if taken + wanted > config.memory_limit_mib:
                raise Refused(
                    Capacity,
                    "ENOMEM",
                    f"VMs have {taken} MiB, and {wanted} more are above local.memory_limit_mib,"
                    f" {config.memory_limit_mib}",
                )
        elif wanted > (available := hosts.available_mib()):
            raise Refused(Capacity, "ENOMEM", f"it takes {wanted} MiB of memory, and {available} are available here")

    def _start(self, intent: Intent) -> Instance:
        directory = self._book.directory(intent.id)
        with self._book.machine(intent.id) as held:
            if not held:  # deleted meanwhile
                return replace(requests.instance(Seen(intent, InstanceState.GONE)), reason="it was deleted")
            if not os.path.exists(f"{directory}/{vm.PIDFILE}"):
                try:
                    self._power_on(intent, directory)
                except BaseException:
                    self._power_off(intent, directory)
                    self._book.remove(intent.id)
                    raise
            return requests.instance(self._looked_at(intent, directory))

    def _take_away(self, intent: Intent) -> None:
        with self._book.machine(intent.id) as held:
            if held:
                self._power_off(intent, self._book.directory(intent.id))
                self._book.remove(intent.id)

    def _power_on(self, intent: Intent, directory: str) -> None:
        if intent.vmm == "namespace":
            sandbox.start(intent, directory, self._config, self._program)
        else:
            vm.start(intent, directory, self._config)

    def _power_off(self, intent: Intent, directory: str) -> None:
        if intent.boot_id != processes.boot_id():
            return  # this host was booted since: its processes and links went then, and their numbers are others'
        (sandbox if intent.vmm == "namespace" else vm).end(intent, directory)

    def _seen(self, intent: Intent) -> Seen:
        """As it is now, without waiting for whoever starts it."""
        directory = self._book.directory(intent.id)
        if os.path.exists(f"{directory}/{vm.PIDFILE}"):
            return self._looked_at(intent, directory)
        with self._book.machine(intent.id, wait=False) as idle:
            if idle and not os.path.exists(f"{directory}/{vm.PIDFILE}"):
                return Seen(intent, InstanceState.STOPPED, "its launch was interrupted before it was started")
        return Seen(intent, InstanceState.PENDING)

    def _looked_at(self, intent: Intent, directory: str) -> Seen:
        if intent.boot_id != processes.boot_id():
            return Seen(intent, InstanceState.STOPPED, "this host was booted again since it was started")
        if processes.alive(processes.read(f"{directory}/{vm.PIDFILE}")):
            said = vm.state(directory) if intent.vmm == "qemu" else "running"
            if said in ("internal-error", "guest-panicked", "shutdown", "io-error"):
                return Seen(intent, InstanceState.STOPPED, f"QEMU calls it {said}")
            return Seen(intent, InstanceState.RUNNING)
        if intent.vmm == "qemu" and self.may_need_another(intent) and self.panicked(intent.id):
            return Seen(intent, InstanceState.PENDING)  # it is about to be powered on again
        return Seen(intent, InstanceState.STOPPED, self._why(intent, directory))

    def _why(self, intent: Intent, directory: str) -> str:
        said = vm.words(directory) if intent.vmm == "qemu" else ""
        printed = self.console(intent.id).decode(errors="replace").strip().splitlines()
        last = f"; its console ends in {printed[-1][-200:].strip()!r}" if printed else ""
        who = "QEMU" if intent.vmm == "qemu" else "its first process"
        return f"{who} has ended{f': {said}' if said else ''}{last}"
