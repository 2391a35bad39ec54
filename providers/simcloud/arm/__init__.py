"""Azure Resource Manager: compute, network, and the little else that pod VMs need; our own state, as strict as Azure.

    service.py   a request in, an answer out: who asks, how fast, which action; the fleet's news
      ├─ routes.py      paths and methods -> actions ("VirtualMachines.CreateOrUpdate")
      ├─ vms.py         virtual machines: PUT, GET, DELETE, power; what goes with one
      │    ├─ vm_rules.py    every reason to refuse one, in Azure's words
      │    ├─ vm_shape.py    what is kept of a PUT, with Azure's defaults; what may not change later
      │    └─ vm_view.py     what GET and instanceView show
      ├─ nics.py        network interfaces, public addresses, and the network they are in
      ├─ disks.py       managed disks · images.py  managed, gallery, community and marketplace images
      └─ account.py     resource groups, permissions, lists by tag, usages, sizes
    schema.py     the SDK's models as the schema that requests are checked against
    state.py      what exists, by id · operations.py  long-running ones · skus.py  sizes · quotas.py  vCPUs
    identity.py   bearer tokens · limits.py  token buckets · prices.py  the retail price list
    metadata.py   what 169.254.169.254 says · errors.py  codes, their status and their form

docs/simcloud.md lists what is strict and what is not simulated.
"""
