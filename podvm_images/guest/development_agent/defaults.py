"""As much of an agent policy as this stand-in honours: its lines `default NAME := true` and `:= false`; pure.

That is all there is in the policy that images bring. One with rules beyond that is taken by its defaults, which refuse:
a stand-in that allowed what it cannot judge would be none.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_LINE: Final = re.compile(r"default\s+(\w+)\s*:=\s*(true|false)\s*(?:#.*)?")
_IDLE: Final = re.compile(r"\s*(?:#.*)?|package\s+agent_policy\s*(?:#.*)?|import\s+[\w.]+\s*(?:#.*)?")
# Calls whose rule is not called <call>Request.
_NAMED: Final = {
    "WriteStdin": "WriteStreamRequest",
    "ReadStdout": "ReadStreamRequest",
    "ReadStderr": "ReadStreamRequest",
    "GetGuestDetails": "GuestDetailsRequest",
}


@dataclass(frozen=True, slots=True)
class Defaults:
    """`beyond`: lines that were not understood."""

    allowed: Mapping[str, bool] = field(default_factory=dict)
    beyond: int = 0

    def allows(self, call: str) -> bool:
        """What nobody names is refused, as kata-agent does it."""
        return self.allowed.get(rule(call), False)


def rule(call: str) -> str:
    """The name that policies have for a call of grpc.AgentService."""
    return _NAMED.get(call, f"{call}Request")


def read(policy: str) -> Defaults:
    """Of the policy's text."""
    allowed, beyond = {}, 0
    for line in policy.splitlines():
        if found := _LINE.fullmatch(line.strip()):
            allowed[found[1]] = found[2] == "true"
        elif not _IDLE.fullmatch(line.strip()):
            beyond += 1
    return Defaults(allowed, beyond)
