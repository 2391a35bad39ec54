"""One admission review from its bytes to the answer's: which pods are ours, and what is said of them. Pure."""

from dataclasses import dataclass
from typing import Final

from adaptor.errors import InvalidRequest
from webhook import mutate, pods, refuse, wire
from webhook.mutate import Rules
from webhook.refuse import Market

MUTATE: Final = "mutate"
VALIDATE: Final = "validate"
# What was decided, as metrics and log call it.
IGNORED: Final = "ignored"  # none of ours
PATCHED: Final = "patched"
ALLOWED: Final = "allowed"
DENIED: Final = "denied"
MALFORMED: Final = "malformed"  # answered with 400


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer, and what there is to tell of it."""

    body: bytes
    decision: str
    namespace: str = ""
    pod: str = ""
    dry_run: bool = False
    note: str = ""  # the VM's size, or why it was denied


@dataclass(frozen=True, slots=True)
class Desk:
    """Where reviews are decided, by these rules."""

    runtime_classes: frozenset[str]
    rules: Rules
    refuse: bool

    def mutate(self, body: bytes) -> Outcome:
        """Raises: pods.Malformed."""
        review = wire.read(body)
        if not self._ours(review):
            return Outcome(wire.allowed(review.uid), IGNORED)
        pod = pods.read(review.object, review.namespace)
        try:
            mutation = mutate.mutate(pod, self.rules)
        except pods.Malformed:
            raise
        except InvalidRequest as error:
            # Without the wish or size that it holds the pod would get a machine that nobody has asked for.
            body = wire.denied(review.uid, str(error))
            return Outcome(body, DENIED, pod.namespace, pod.name, review.dry_run, str(error))
        body = wire.allowed(review.uid, mutation.operations, mutation.warnings)
        decision = PATCHED if mutation.operations else ALLOWED
        return Outcome(body, decision, pod.namespace, pod.name, review.dry_run, mutation.size.marker())

    def validate(self, body: bytes, market: Market) -> Outcome:
        """Raises: pods.Malformed."""
        review = wire.read(body)
        if not self._ours(review):
            return Outcome(wire.allowed(review.uid), IGNORED)
        pod = pods.read(review.object, review.namespace)
        reasons = refuse.refusals(pod, market) if self.refuse else []
        warnings = refuse.warnings(pod)
        if reasons:
            why = "; ".join(reasons)
            return Outcome(wire.denied(review.uid, why, warnings), DENIED, pod.namespace, pod.name, review.dry_run, why)
        return Outcome(wire.allowed(review.uid, (), warnings), ALLOWED, pod.namespace, pod.name, review.dry_run)

    def _ours(self, review: wire.Review) -> bool:
        """The runtime class is looked at here too: a webhook configuration may send every pod."""
        return review.creates_pod and pods.runtime_class(review.object) in self.runtime_classes
