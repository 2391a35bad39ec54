"""The pod's network on the worker: what its namespace holds, as plain values.

    netns path (CreateVM) ──netlink.dump──► rows ──inspect──► PodNetwork ──► apf.json's "pod-network" (upstream guests)

`netlink` is the only module that speaks netlink or enters a namespace; the rest is pure. Nothing here makes, moves or
names a namespace: they belong to the container runtime.
"""
