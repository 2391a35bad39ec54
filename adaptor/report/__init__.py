"""What people are told of pods' VMs: `peerpods ps | describe | trace | logs | console`.

    node.py   journal, relay ──┐                     ┌─► timeline.py   how a start went, step by step
                               ├─► model.py: Subject ┼─► text.py       tables and pages
    kube.reading  PeerPods,  ──┘                     ├─► hints.py      what to do next
                  Pods, Events                       └─► links.py      the cloud's own page
    lines.py  one adaptor's log, for people

Both sources give the same values, so a workstation and a node show the same pages. Everything here only reads: no cloud,
no cluster and no file is changed. Called by adaptor.cli only; all but node.py is pure.
"""
