"""The worker's side of peerpods: the adaptor daemon, the relay beside it, and the `peerpods` command.

    kata shim ──hypervisor.sock──► adaptor (control plane: may be restarted at any moment)
        │                             │ relay.sock
        └──────agent.ttrpc────────► relay (data plane: outlives the adaptor) ──mTLS──► pod VM

ARCHITECTURE.md maps the rooms and says who may import whom.
"""

__version__ = "0.1.0"
