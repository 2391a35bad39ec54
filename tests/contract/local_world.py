"""This host, for the contract suite: namespaces in place of VMs, which are there in a hundredth of the time."""
