"""The program in the pod VM that a worker's relay talks to, on TCP 15150.

    user-data ─ userdata ◄─ imds        who may command this VM, and the token that proves it is the one launched
                   │
                program ── identity     its key and certificate, in memory only
                   │
    worker ═TLS═► service ─ control     Hello: prove the launch token; Bind: once, for the VM's life; Resume: as often
                   │   │                as links break
                   │   └─── volumes     finds the pod's disks (devices), looks at them (blocks), mounts them
                   │   └─── bind        checks and writes what Bind brought (initdata, registry credentials, ...)
                   │   └─── network     gives the pod its own network in this VM (podns does it, layout decides)
                   │   └─── agent       starts or awaits the agent
                   └─ forwarder ──────► kata-agent's socket: one connection, for the pod's life, over one link after the other

It is part of the measured trust base, so it is small and imports little; it must listen soon after exec, because
every pod start waits for that. It never writes its key to a disk, never logs a secret, and lets no byte reach the
agent before Bind. Given upstream's user-data (`stock`) it serves as upstream's forwarder does (`stock_service`).
"""
