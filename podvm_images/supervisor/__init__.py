"""The pod VM's first process where the image has no systemd (profile `min`): makes the machine, and keeps it going.

    initrd ─► PID 1: mounts, modules ─► guest (podvm_images.guest), at once
                 │                       │ Bind leaves files in /run/peerpod
                 ├─ cards: DHCP          ▼
                 ├─ scratch ◄── asked for by a marker
                 ├─ keeper: the attestation agent, the data hub, the agent, the REST server: each when what it waits
                 │          for is there, again when it ends, with a back-off
                 └─ reaps whatever nobody else does

It is part of the measured trust base: the standard library, `adaptor.names` and the guest's netlink. What it decides is
in `services`, `dhcp` and `layers`, which are pure. Its words go to the console, which the host can read: they hold
nothing of the pod's. It stops nothing and gives nothing up by itself: a VM is its worker's to delete.
"""
