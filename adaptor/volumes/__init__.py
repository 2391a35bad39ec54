"""Disks of the cloud that a pod's volumes are: found on this node, checked, and told to relay and guest.

    CSI driver ── NodePublish ──► <directory>/<base64url of the path>/mountInfo.json      kata's direct volumes
                                        │
    CreateVM ── node (reads the disk) ──┴── records (parses) ──► DirectVolume, part of the sandbox's wish
    StartVM  ── plan (decides)                                   may these disks be attached, and in which zone

The sandbox's steps ask the cloud and attach (`sandbox.disks`); the guest finds, checks, formats and mounts
(`podvm_images.guest.volumes`). Nothing here creates, changes or deletes a disk: that is the CSI driver's.
A record is only ever taken for a pod whose uid is known, and is the uid in the record's path: no guess gives one pod
another one's data.
"""
