"""Azure: one virtual machine per pod VM, confidential (SEV-SNP or TDX, as its size has it) by default.

    provider.py ─► launch.py ─► arm.py ─ azure-mgmt-compute's asyncio client ─► Azure, or simcloud by `endpoint_url`
        │            NIC first,   └ its errors ──► errors.py: vendor code → class
        │            then the VM
        ├─ requests.py    spec, settings → the bodies of the calls; their answers → Instance (pure)
        ├─ resources.py   what the sweep finds and removes, kind by kind (pure)
        ├─ catalog.py     the API's SKUs → Offerings, with prices.py's prices (pure)
        ├─ quotas.py, images.py, preflight.py, volumes.py   what their names say
        ├─ credentials.py azure-identity, as the environment has it; the key that Azure demands
        └─ config.py      settings, with upstream's environment names as aliases

Only arm.py, prices.py, credentials.py and errors.py import the SDK. azure-mgmt-network is not loaded (30 MiB): the handful of
network calls go through the compute client's own pipeline. Nothing here waits for a machine's agent to report.
"""
