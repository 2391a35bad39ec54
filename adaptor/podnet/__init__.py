"""The pod's network in a VM: what the pod's namespace holds as plain values, and the worker's half of its tunnels.

    netns path ──► netlink ─ rows ─► inspect ──► PodNetwork ──► plan.guest_plan ─ Bind ─► the VM (apf: stock images)
                                                     │
    sandbox ──► hosts ──► operations ──► worker ──► devices, nftables       probe: does the VM answer?

`hosts.HostNetworks` is what the sandbox's life calls (`rooms.Tunnels`). operations, inspect, plan, vxlan decide; worker,
devices, nftables, netlink and filters act, on one thread. Nothing here makes, moves or names a namespace: they belong
to the container runtime. Nothing of a pod's namespace is changed besides what is ours, so that its end leaves it as it was.
"""
