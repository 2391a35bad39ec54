"""A development agent: a clearly named stand-in for kata-agent, so that simulated pod VMs run real containers.

    shim ─► relay ─► guest ─► agent.sock ─► service ─► sandbox ─► container ─► runtime ─► crun or runc
                                               │          │           └─ processes   stdio, terminals, exit statuses
                                             files      storages                     bundle      Spec → config.json

What is real: the OCI runtime, stdio and terminals, exec, signals, exit statuses, CopyFile, pod-wide IPC and UTS.
What is not, and is said loudly in its log: **no image is pulled.** A container's root file system is put together
from the VM's own /usr, read-only, and a minimal /etc; the pause container runs `sleep infinity`. Nothing is
isolated or measured beyond what the runtime does; cgroups, seccomp profiles and extra devices are left out, and the
network is the VM's own.

Called by the guest program (`--agent development`). Never part of a pod VM image: there kata-agent runs.
"""
