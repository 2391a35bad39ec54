"""One pod's life on this node, from CreateVM to nothing left.

    hypervisor ──► registry ──► driver (one task per sandbox, sole writer of its state)
                                  │ decides by lifecycle (pure), acts by steps ((do, undo) chain)
                                  ├─► journal   intent before deed, result after; state is a fold (model)
                                  ├─► provider  the VM            watch: one describe for all that wait
                                  │             fair: creates in turn    create: a seat, the intent, the call
                                  └─► relay     agent socket, link, bind

sweep: what of the cloud's resources nobody owns (pure); sweeper removes it.
recovery: at start, journal x relay sessions x instances -> a plan -> drivers that go on where the last process stopped.
adoption: whose VM the pod's next sandbox may have. patrol: notices that a running pod's VM has died.
Never here: sockets, TLS, a cloud's SDK, Kubernetes.
"""
