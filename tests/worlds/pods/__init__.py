"""Pods' networks as CNI plugins make them: two hosts, a VM and pods, each a network namespace, joined by veth.

layouts: what each CNI plugin does, as data, with its source
build: makes a layout for real          namespaces, nft, bpf: what it is made with
traffic: what a pod sends and gets, checked
"""
