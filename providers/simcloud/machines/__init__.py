"""Instances that really boot: each a set of Linux namespaces with its own network, metadata service and console.

    fleet.py ─► base.py (Host, Run) ◄── namespace.py   boots one instance, watches and ends it
                                          ├─ network.py    the VPC: a router namespace, one link to this one
                                          ├─ providers/boot.py   the instance's first steps, as a shell script
                                          ├─ imds.py       HTTP at 169.254.169.254, served from this process
                                          └─ console.py    what it prints, the last 64 KiB

What the metadata service says is the cloud's business (`ec2/metadata.py`); how it is reached is this room's.
Everything here ends with this process, kill -9 included: no link, namespace, mount or process stays.
"""
