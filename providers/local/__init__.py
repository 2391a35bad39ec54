"""Pod VMs on the node itself: QEMU, with KVM or without, and with SEV-SNP or TDX where the host has it.

    provider.py ──► machines.py: directories, processes, tombstones ──► launch.py ─┬─ qemu.py: a VM ── qmp.py
        │               └ its errors ──► errors.py: errno, QEMU's words → class    └─ sandbox.py: no VM (namespaces)
        ├─ requests.py   spec, settings → intent; intent, host → Instance; limits (pure)
        ├─ commands.py   intent, image, host → QEMU's and swtpm's command lines (pure)
        ├─ image.py      image.json (pure)          iso.py   a cidata disk (pure)       imds.py  a metadata service
        ├─ catalog.py    settings, host → Offerings (pure)
        ├─ intents.py    what is written down of a VM, and of one that has ended
        ├─ processes.py  start, know again after a restart, end; by pid and start time
        ├─ hosts.py      what this host has: KVM, QEMU, firmware, memory
        ├─ links.py      the bridge, taps, links of namespaces       dhcp.py   leases: the MAC is the address
        └─ preflight.py  what `peerpods check --cloud` says

A VM outlives the adaptor: everything about it is in its directory, below `local.state_dir`.
"""
