"""Google Compute Engine: one instance per pod VM, AMD SEV-SNP by default.

    provider.py ── plain dicts ──► api.py: threads, pace ──► google-cloud-compute (sdk.py) ──► GCE, or simcloud
        │                            └ its errors ──► errors.py: vendor code → class
        ├─ requests.py   spec, settings → the calls' parameters; their answers → Instance (pure)
        ├─ marks.py      names, labels, and the exact tags that labels cannot hold (pure)
        ├─ volumes.py    a pod's disks (pure)
        ├─ resources.py  what the sweep finds and removes, kind by kind (pure)
        ├─ catalog.py    the API's machine types → Offerings (pure); tees.py: which of them gives which TEE
        ├─ quotas.py     a region's quotas → Headroom (pure); prices.py: Cloud Billing's → Offering.price (pure)
        ├─ addresses.py  internal addresses reserved beforehand, where that is asked for
        ├─ preflight.py  what is asked before a launch; findings.py: what the answers mean (pure)
        └─ config.py     settings, with upstream's environment names as aliases

Only sdk.py, api.py and errors.py import Google's SDK. Nothing here retries: the caller does, with the same token.
"""
