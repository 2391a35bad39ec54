"""What the program tells about itself: log lines, durations and counts.

    log.info(...) ─────────────► logs ──► stderr: columns on a terminal, JSON lines elsewhere
    with span(log, "x.y") ─────► spans ─► logs, the histogram in metrics, listeners (events, demo)
    COUNTER.labels(...).inc() ─► metrics ─► http: GET /metrics, /healthz, /readyz

Everybody calls logs; the relay and the guest call nothing else here, for metrics cost them memory. Nothing in
this room decides anything, and no secret passes it: logs render by rules, not by the caller's care.
"""
