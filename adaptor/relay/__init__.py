"""The data plane of a worker: every agent socket, every TLS link to a pod VM, and nothing else.

                    relay.sock (Open, Dial, Bind, Close, List, Watch)
    adaptor: client ───────────────► process ── session (states), one per sandbox
                                                │     │      └ link: dials the VM, TLS (tls), Hello, Bind
                                                │     └ listener: the agent socket
    kata shim ══ agent.ttrpc ════════════════► pump ═══════ mTLS ═════════► guest: pump ══ agent.sock
                                                │ └ readiness: which sockets can go on
                                              splice: pass | rewrite (its table) | answer

`splice`, `rewrite` and `states` are pure. `splice`, `pump` and `tls` also make the guest's half. The relay outlives
the adaptor, because the shim dials its agent socket once and a closed connection ends its pod.

Never: a cloud, Kubernetes, state on disk, a decoded call that no table names, a task per call, a secret in a log.
"""
