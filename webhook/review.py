"""One admission review from its bytes to the answer's: which pods are ours, and what is said of them. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from adaptor.errors import InvalidRequest
from webhook import mutate, pods, refuse, wire
from webhook.mutate import Rules
from webhook.refuse import Market

MUTATE: Final = "mutate"
VALIDATE: Final = "validate"
CALLS: Final = (MUTATE, VALIDATE)
# What was decided, as metrics and log call it.
IGNORED: Final = "ignored"  # none of ours
PATCHED: Final = "patched"
ALLOWED: Final = "allowed"
DENIED: Final = "denied"
MALFORMED: Final = "malformed"  # answered with 400
FAILED: Final = "failed"  # a fault of this program: denied, for nobody knows what the pod would become
DECISIONS: Final = (IGNORED, PATCHED, ALLOWED, DENIED, MALFORMED, FAILED)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided of a pod, for every pod that is alike: `answer` lacks the review's uid only."""

    answer: wire.Answer
    decision: str
    note: str = ""  # the VM's size, or why it was denied


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer's bytes, and what there is to tell of it."""

    body: bytes
    decision: str
    pod: str = ""  # namespace/name; empty for one that is none of ours
    dry_run: bool = False
    note: str = ""


class Desk:
    """Where reviews are decided, by these rules.

    The pods of a Deployment or Job are alike in all that counts here: what was decided of one is remembered.
    """

    def __init__(self, runtime_classes: frozenset[str], rules: Rules, *, refuse: bool) -> None:
        self._runtime_classes = runtime_classes
        self._rules = rules
        self._refuse = refuse
        self._mutated = Memory()
        self._validated = Memory()
        self._market: Market | None = None

    def mutate(self, body: bytes) -> Outcome:
        """Raises: pods.Malformed."""
        return self._decide(body, self._mutated, self._mutate)

    def validate(self, body: bytes, market: Market) -> Outcome:
        """Raises: pods.Malformed."""
        if market is not self._market:
            self._market, self._validated = market, Memory()
        return self._decide(body, self._validated, lambda pod: self._validate(pod, market))

    def _decide(self, body: bytes, memory: "Memory", decide: Callable[[pods.Pod], Verdict]) -> Outcome:
        review = wire.read(body)
        # The runtime class is looked at here too: a webhook configuration may send every pod.
        if not review.creates_pod or pods.runtime_class(review.object) not in self._runtime_classes:
            return Outcome(wire.ALLOWED.to(review.uid), IGNORED)
        key = pods.likeness(review.object)
        verdict = memory.get(key)
        if verdict is None:
            verdict = decide(pods.read(review.object))
            memory.put(key, verdict)
        return Outcome(
            verdict.answer.to(review.uid),
            verdict.decision,
            pods.called(review.object, review.namespace),
            review.dry_run,
            verdict.note,
        )

    def _mutate(self, pod: pods.Pod) -> Verdict:
        try:
            mutation = mutate.mutate(pod, self._rules)
        except pods.Malformed:
            raise
        except InvalidRequest as error:
            # Without the wish or size that it holds the pod would get a machine that nobody has asked for.
            return Verdict(wire.denied(str(error)), DENIED, str(error))
        answer = wire.allowed(mutation.operations, mutation.warnings)
        return Verdict(answer, PATCHED if mutation.operations else ALLOWED, mutation.size.marker())

    def _validate(self, pod: pods.Pod, market: Market) -> Verdict:
        reasons = refuse.refusals(pod, market, self._rules.network) if self._refuse else []
        warnings = refuse.warnings(pod)
        if reasons:
            why = "; ".join(reasons)
            return Verdict(wire.denied(why, warnings), DENIED, why)
        return Verdict(wire.allowed((), warnings), ALLOWED)


class Memory:
    """Verdicts by the pod's likeness; at most ENTRIES of them, of pods whose likeness is short."""

    ENTRIES: Final = 1024
    LONGEST: Final = 8192  # characters of a likeness: with the answers, 16 MiB at the very most

    def __init__(self) -> None:
        self._known: dict[str, Verdict] = {}

    def get(self, likeness: str) -> Verdict | None:
        """What was decided of such a pod."""
        return self._known.get(likeness)

    def put(self, likeness: str, verdict: Verdict) -> None:
        """Remember it; when there are too many, begin anew."""
        if len(self._known) >= self.ENTRIES:
            self._known.clear()
        if len(likeness) <= self.LONGEST:
            self._known[likeness] = verdict
