"""The admission webhook: pods of our runtime classes become pods whose machine is elsewhere.

    API server ── AdmissionReview ──► server ──► review ──► mutate   sizes the VM, takes the resources off the worker
    (/mutate, /validate; TLS)           │          ▲         refuse   what could never start, with the reason
                                        │          └─ answer
                       certificates ────┘  offerings: what the cloud sells, as the controller writes it

    pods    a pod as far as it matters here      sizes    Kubernetes' own rules for what a pod asks for
    shim    what kata will tell the adaptor      wire     AdmissionReview and JSON patch

It calls nobody: no API server, no cloud; it keeps nothing. Everything but server, certificates and offerings is pure.
"""
