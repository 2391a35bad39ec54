"""Every metric of the adaptor, in one place, so that a dashboard can be written from this page alone.

Labels hold words from small fixed sets, never ids or pod names: each combination is kept in memory for good.
The relay has no metrics of its own (this import costs it memory); the adaptor reports what it hears from it.
"""

import platform
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

import adaptor

disable_created_metrics()  # type: ignore[no-untyped-call] # a `_created` series beside each counter doubles the page and answers no question

# Seconds. From a TLS handshake (tens of ms) over a cloud's accept (1 s) and a boot (10-60 s) to the start limit (5 m).
_START_BUCKETS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600)
# Seconds. One HTTPS round trip up to an SDK's read time-out.
_CALL_BUCKETS: Final = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Seconds. An fsync on NVMe, on a network disk, on a disk that is dying.
_WRITE_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1)

BUILD: Final = Gauge("peerpods_build_info", "Always 1; the labels say what runs.", ["version", "python"])
BUILD.labels(version=adaptor.__version__, python=platform.python_version()).set(1)

SANDBOXES: Final = Gauge("peerpods_sandboxes", "Sandboxes on this node by state of their life.", ["state"])
PHASE_SECONDS: Final = Histogram(
    "peerpods_phase_seconds",
    "Time of one phase of a pod VM's life (sandbox.start is the whole start); outcome: complete, failed, cancelled.",
    ["phase", "outcome"],
    buckets=_START_BUCKETS,
)

TUNNELS: Final = Gauge(
    "peerpods_tunnels",
    "Pods' tunnels that are numbered and not yet taken away; peerpods_phase_seconds has how long network.open and network.connect take.",
)

HYPERVISOR_CALLS: Final = Counter(
    "peerpods_hypervisor_calls",
    "Calls of kata's shim by method and the status they were answered with.",
    ["method", "code"],
)

CREATES_WAITING: Final = Gauge("peerpods_creates_waiting", "Pod VMs whose create call waits for its turn.")
CREATE_WAIT_SECONDS: Final = Histogram(
    "peerpods_create_wait_seconds", "Time a create call waited for its turn.", buckets=_START_BUCKETS
)

CLOUD_CALLS: Final = Counter(
    "peerpods_cloud_calls", "Calls of a cloud's verbs; outcome: ok, error.", ["cloud", "verb", "outcome"]
)
CLOUD_CALL_SECONDS: Final = Histogram(
    "peerpods_cloud_call_seconds",
    "Time of a call of a cloud's verb, retries included.",
    ["cloud", "verb"],
    buckets=_CALL_BUCKETS,
)
CLOUD_ERRORS: Final = Counter(
    "peerpods_cloud_errors",
    "Refusals by what they mean: Capacity, Quota, Throttled, Denied, ...",
    ["cloud", "verb", "kind"],
)

CLOUD_WAITING: Final = Gauge(
    "peerpods_cloud_calls_waiting", "Calls held back until the cloud takes more of them.", ["cloud"]
)
CLOUD_BACKOFFS: Final = Counter(
    "peerpods_cloud_backoffs", "Times that a throttled call slowed down those that share its limit.", ["cloud"]
)

RELAY_UP: Final = Gauge("peerpods_relay_up", "1 while the relay answers on its socket.")
RELAY_SESSIONS: Final = Gauge(
    "peerpods_relay_sessions", "Agent sockets the relay holds, by state of their link.", ["state"]
)

WIREGUARD_UP: Final = Gauge(
    "peerpods_wireguard_up", "1 while encrypted pods' WireGuard device serves; 0 also when no pod needs it."
)
WIREGUARD_PEERS: Final = Gauge("peerpods_wireguard_peers", "Pod VMs that are peers of this node's WireGuard device.")
WIREGUARD_REVIVALS: Final = Counter(
    "peerpods_wireguard_revivals", "Times that the WireGuard device was gone, or changed by others, and made anew."
)

JOURNAL_WRITES: Final = Counter(
    "peerpods_journal_writes", "Rows written to the journal; outcome: ok, error.", ["outcome"]
)
JOURNAL_WRITE_SECONDS: Final = Histogram(
    "peerpods_journal_write_seconds", "Time of a journal commit, the disk's flush included.", buckets=_WRITE_BUCKETS
)

SWEEPS: Final = Counter("peerpods_sweeps", "Looks for leaked cloud resources; outcome: ok, error.", ["outcome"])
LEAKED: Final = Gauge("peerpods_leaked_resources", "Left by the last look: resources that nobody owns.", ["kind"])
SWEPT: Final = Counter(
    "peerpods_swept_resources",
    "Leaked resources dealt with; outcome: removed, spared (owned after all), failed.",
    ["kind", "outcome"],
)

CONTROLLER_LEADS: Final = Gauge("peerpods_controller_leads", "1 in the controller that has the lease.")
CONTROLLER_FAILURES: Final = Counter(
    "peerpods_controller_duty_failures", "Times that one of the controller's duties failed and began again.", ["duty"]
)
PEERPODS_FINISHED: Final = Counter(
    "peerpods_controller_peerpods_finished", "PeerPods of dead nodes and vanished pods whose VM the controller ended."
)
PEERPODS_STUCK: Final = Gauge(
    "peerpods_controller_peerpods_stuck", "PeerPods that nobody finishes: their events tell why."
)
QUOTA_HELD: Final = Gauge("peerpods_quota_held_pods", "Pods that wait at the quota's gate.")
QUOTA_LIFTED: Final = Counter("peerpods_quota_lifted_gates", "Pods that were let through the quota's gate.")
CERTIFICATE_EXPIRES: Final = Gauge(
    "peerpods_controller_certificate_end_seconds",
    "When the serving certificate in the webhook's Secret ends, seconds since the epoch.",
)

WEBHOOK_REVIEWS: Final = Counter(
    "peerpods_webhook_reviews",
    "Admission reviews; method: mutate, validate; outcome: ignored (none of ours), patched, allowed, denied, malformed, failed.",
    ["method", "outcome"],
)
WEBHOOK_SECONDS: Final = Histogram(
    "peerpods_webhook_review_seconds",
    "Time from a review's last byte to its answer.",
    ["method"],
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),  # 5 s: the API server gives up
)
WEBHOOK_CERTIFICATE_END: Final = Gauge(
    "peerpods_webhook_certificate_end_seconds", "When the certificate that is served ends, seconds since the epoch."
)
WEBHOOK_OFFERINGS: Final = Gauge(
    "peerpods_webhook_offerings", "Offerings that pods are checked against; 0: none known, so that is not checked."
)
KUBERNETES_UP: Final = Gauge("peerpods_kubernetes_up", "1 while the API server answers; without a cluster always 0.")
KUBERNETES_WRITES: Final = Counter(
    "peerpods_kubernetes_writes",
    "Writes to the API server by kind of object; outcome: ok, stale (what it met had changed; repeated), error.",
    ["kind", "verb", "outcome"],
)
KUBERNETES_DROPPED_EVENTS: Final = Counter(
    "peerpods_kubernetes_dropped_events",
    "Events that were not written; cause: limit (too many of one pod), queue (the API server was away), refused.",
    ["cause"],
)

ADVERTISED_VMS: Final = Gauge("peerpods_advertised_vms", "Pod VMs that the scheduler is told this node may have.")


def sandbox_moved(old: str | None, new: str | None) -> None:
    """Keep `SANDBOXES`: from `old` (None = just made or just found again) to `new` (None = not counted any more)."""
    if old is not None:
        SANDBOXES.labels(state=old).dec()
    if new is not None:
        SANDBOXES.labels(state=new).inc()


def tunnel_moved(had: object, has: object) -> None:
    """Keep `TUNNELS`; None: no tunnel."""
    TUNNELS.inc((has is not None) - (had is not None))


def page() -> tuple[bytes, str]:
    """All of it as Prometheus reads it, and that text's content type."""
    return generate_latest(), CONTENT_TYPE_LATEST
