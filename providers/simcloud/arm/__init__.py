"""Azure Resource Manager: compute, network, and the little else that pod VMs need; our own state, as strict as Azure.

    service.py   a request in, an answer out: who asks, how fast, which action; the rooms' handlers
      ├─ routes.py    paths and methods -> actions ("VirtualMachines.CreateOrUpdate")
      ├─ vms.py       virtual machines: made, changed, switched off and on, taken down
      │    ├─ vm_rules.py, vm_login.py, vm_disks.py   every reason to refuse one, in Azure's words
      │    ├─ vm_shape.py        what is kept of a PUT, with Azure's defaults; what may not change later
      │    ├─ vm_launch.py       onto the fleet, or not; vm_belongings.py: what comes and goes with it
      │    └─ vm_view.py         what GET and instanceView show
      ├─ nics.py      interfaces, public addresses · disks.py · images.py
      └─ account.py   groups, permissions, lists by tag, sizes, usages, networks and rules
    desk.py      what all rooms share; a request, a reply · state.py  what exists, by id
    schema.py    the SDK's models as the schema that requests are checked against
    operations.py  long-running ones · skus.py  sizes · quotas.py  vCPUs · prices.py  the retail price list
    identity.py  bearer tokens · permissions.py  who may what · limits.py  token buckets · tags.py · listing.py  pages
    metadata.py  what 169.254.169.254 says · errors.py  codes, their status and their form

docs/simcloud.md lists what is strict and what is not simulated.
"""
