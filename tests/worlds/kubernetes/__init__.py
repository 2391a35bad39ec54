"""A small strict Kubernetes API server for tests, with a played scheduler and kubelet.

    server.py  HTTP(S), faults ── api.py  verbs ── store.py  objects, versions, history
                 │                   ├─ admission.py  LimitRanger, RuntimeClass, webhooks, policies, quota
               access.py             ├─ schema.py, metadata.py, pods.py  what is valid
               tokens, RBAC          ├─ patches.py, fields.py  the four patches, who owns a field
                                     └─ garbage.py  owners, finalizers, namespaces
    node.py    a scheduler that binds, kubelets that advertise, admit and end pods

`world.World` puts them together: `async with World() as world`. The real lightkube, the adaptor and the commands talk to
it unchanged. Where a real API server differs, the real one is right: tests/contract/kubernetes runs on both.

It plays no controllers but the garbage collector's, the namespaces' and the quotas'; Deployments and the like are plain
objects, and so are MutatingAdmissionPolicies (a warning says so).
"""
