"""EC2, on moto, made as strict as the real one where moto is lenient.

    service.py   a request in, an answer out: who signs, how fast, which action; states back from the fleet
      └─ api.py        the actions that moto is too lenient in; every other action is moto's own
           ├─ launch.py      RunInstances: token, defaults, capacity, birth
           │    ├─ request.py   what was asked, with launch template and defaults filled in
           │    └─ checks.py    every reason to refuse it, in EC2's words
           ├─ describe.py    filters, pages, what is visible, what a terminated instance still shows
           ├─ belongings.py  volumes, interfaces, addresses
           ├─ tags.py        the limits on tags
           └─ catalog.py     instance types as this region has them
    account.py   moto's backend with a default VPC, image and group of fixed ids
    metadata.py  what 169.254.169.254 says · limits.py  token buckets · errors.py  codes and their HTTP status

docs/simcloud.md lists what is strict and what is not simulated.
"""
