"""`peerpods demo`: one pod's whole life, for real, on one machine and without a cloud account.

    enter (private namespaces) ─► world (simcloud, adaptor, relay: real processes) ─► shim (plays kata's shim)
                                                                       │
          leftovers (proves that nothing stayed) ◄─ script ─► timeline (what the terminal shows)

`world` and `shim` are also what the end-to-end tests run pods with.
"""
