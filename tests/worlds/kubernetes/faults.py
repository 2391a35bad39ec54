"""What can be made to go wrong between a client and its answer."""

from dataclasses import dataclass, field

from tests.worlds.kubernetes.refusals import Refusal


@dataclass(slots=True)
class Fault:
    """Meets the next `times` requests that fit: `verb` and `resource` ("pods", "nodes/status"), empty for any.

    `status` answers with that code; `lost_reply` does the deed and then drops the connection; `latency` seconds come
    before the answer; with none of them the connection is dropped before anything is done.
    """

    verb: str = ""
    resource: str = ""
    name: str = ""
    times: int = 1
    status: int = 0
    retry_after: int | None = None
    message: str = "injected by the test"
    lost_reply: bool = False
    latency: float = 0.0

    def refusal(self) -> Refusal:
        return Refusal(self.status, self.message, retry_after=self.retry_after)


@dataclass(slots=True)
class Faults:
    """The faults in wait, and what has met one."""

    waiting: list[Fault] = field(default_factory=list)
    met: list[str] = field(default_factory=list)

    def add(self, fault: Fault) -> Fault:
        self.waiting.append(fault)
        return fault

    def clear(self) -> None:
        self.waiting.clear()

    def take(self, verb: str, resource: str, name: str) -> Fault | None:
        for fault in self.waiting:
            wanted = (fault.verb, verb), (fault.resource, resource), (fault.name, name)
            if all(not mine or mine == its for mine, its in wanted):
                fault.times -= 1
                if fault.times <= 0:
                    self.waiting.remove(fault)
                self.met.append(f"{verb} {resource} {name}".strip())
                return fault
        return None
