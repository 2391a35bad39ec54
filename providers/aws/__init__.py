"""Amazon EC2: one instance per pod VM, AMD SEV-SNP by default.

    provider.py ── plain dicts ──► boto3, in threads of its own ──► EC2, or simcloud by `endpoint_url`
        │                            └ its errors ──► errors.py: vendor code → class
        ├─ requests.py   spec, settings → the calls' parameters; their answers → Instance (pure)
        │    └ shape.py  network, volumes, place, way to pay, launch template · labels.py (pure)
        ├─ knowledge.py  what is asked once: places, images, types (catalog.py), prices (prices.py)
        ├─ resources.py  what the sweep finds and removes, kind by kind (pure)
        ├─ volumes.py · elastic.py   EBS volumes and elastic addresses of one instance
        ├─ preflight.py · reachability.py · quota.py   would launches succeed, and how many
        ├─ worker.py     what the settings leave open, from this node's own instance metadata
        └─ config.py     settings, with upstream's environment names as aliases

Only provider.py imports boto3. Nothing here waits for a machine to run, or retries: the caller does, with the
same token.
"""
