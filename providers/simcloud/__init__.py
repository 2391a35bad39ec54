"""A cloud on loopback: real SDKs talk to it, it refuses what the real one refuses, and its instances boot.

    real SDKs ────HTTP──────► server.py ─► faults.py ─► ec2/ (moto's EC2, made strict), arm/, gce/
    curl, tests ─/_simcloud─► control.py                 │ launch, terminate
                                                         ▼
                                           fleet.py: one life per instance, whatever the cloud
                                                         │ boot, kill
                                                         ▼
                                           machines/: namespaces with their own network and metadata

`cloud.py` builds it all; `testing.running()` is for tests, `peerpods simcloud` for people. A cloud's folder knows
the wire and the rules of that cloud, and nothing of namespaces; `machines` knows no cloud.
"""
