"""What the worlds on a simulated cloud have in common."""

import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, ClassVar

from providers import registry
from providers.base import Ownership, Provider
from providers.errors import ProviderError
from tests.contract.world import Verb

HELD = 0.5  # seconds an answer is held back: longer than a test needs to see the call arrive and give up


class Simulated:
    """Faults and calls by verb, and providers of any settings; what is left of a World is each cloud's own."""

    name: ClassVar[str]
    actions: ClassVar[Mapping[Verb, Sequence[str]]]  # a verb's calls as simcloud names them, the one to spoil first
    answers: ClassVar[Mapping[type[ProviderError], Mapping[str, Any]]]  # the fault that means each class

    def __init__(self, cloud: Any, config: Any, closing: AsyncExitStack) -> None:
        self.cloud = cloud
        self.config = config
        self.owner = Ownership("cluster-a", "node-1")
        self._closing = closing
        self._planted = 0
        self.provider = self.connect(self.owner)

    def connect(self, owner: Ownership) -> Provider:
        return self.opened(self.config, owner)

    def spot(self) -> Provider:
        return self.opened(replace(self.config, spot=True), self.owner)

    def unreachable(self) -> Provider:
        with socket.socket() as freed:
            freed.bind(("127.0.0.1", 0))
            port = freed.getsockname()[1]
        return self.opened(replace(self.config, endpoint_url=f"http://127.0.0.1:{port}"), self.owner)

    def opened(self, config: Any, owner: Ownership) -> Provider:
        provider = registry.open_provider(self.name, config, owner)
        self._closing.push_async_callback(provider.aclose)
        return provider

    def refuse(self, verb: Verb, kind: type[ProviderError]) -> None:
        self.cloud.faults.next(action=self.actions[verb][0], **self.answers[kind])

    def refuse_strangely(self, verb: Verb) -> None:
        self.cloud.faults.next(action=self.actions[verb][0], error="Strange.Novelty")

    def lose_reply(self, verb: Verb) -> None:
        self.cloud.faults.next(action=self.actions[verb][0], lose_reply=True)

    def hold_reply(self, verb: Verb) -> None:
        self.cloud.faults.next(action=self.actions[verb][0], delay_reply=HELD)

    def calls(self, verb: Verb) -> int:
        return sum(list(self.cloud.calls).count(action) for action in self.actions[verb])
