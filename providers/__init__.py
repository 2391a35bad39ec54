"""Clouds: six idempotent verbs behind one protocol, one folder per cloud with the same file names in each.

    adaptor.sandbox ──Provider (base.py)──► aws/ azure/ gcp/ local/        simcloud/: a loopback cloud
                                            config · provider · requests      the real SDKs talk to
                                            catalog · errors

`registry` maps a name to a cloud and imports only the one selected. Nothing here imports `adaptor`.
"""
