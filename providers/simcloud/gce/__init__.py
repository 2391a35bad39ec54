"""Google Compute Engine's REST API, compute/v1, for one project in one region.

    service.py     a request in, an answer out: who asks, how often, which action; the fleet's news
      ├─ paths.py        which action a URL is, and what links mean · schema.py  requests against Google's own types
      ├─ instances.py    the verbs on instances
      │    ├─ request.py      insert: what was asked, with everything that it names looked up
      │    ├─ checks.py       every reason to refuse it, in Google's words
      │    ├─ launch.py       capacity, quota, birth
      │    └─ instance.py     what an instance shows
      ├─ disks.py, addresses.py, images.py, places.py, networks.py   the other kinds, one each
      ├─ operations.py   what every change answers with, and which request ids have been used
      └─ iam.py          tokens, permissions, resource manager's tags · billing.py  prices
    project.py   what exists · machine_types.py, tees.py  what is sold where · quotas.py, limits.py  how much of it
    listing.py   filters and pages · metadata.py  what 169.254.169.254 says · errors.py  reasons and their HTTP status

Nothing here is moto's: the state is plain JSON as Google shows it. docs/simcloud.md lists what is strict and what is
not simulated.
"""
