"""What one process does for the whole cluster (`peerpods controller`); several may run, the one with the Lease acts.

    process ── election (tenure) ── duties ─┬─ finisher (fate)       PeerPods of dead nodes and vanished pods
                                            ├─ sweep (claims)        the cloud's resources of nodes that are gone
                                            ├─ certificates (rotation, authority)   the webhook's
                                            ├─ quota (gates)         pods that wait for room
                                            └─ offers                what the cloud sells, for the webhook

In brackets the pure modules that decide. Duties see the cluster through `mirror`s and `api`, and can be killed between
any two calls: whatever they do is found out anew and done again.

A node that lives is never interfered with: its PeerPods and VMs are its adaptor's.
"""
