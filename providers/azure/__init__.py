"""Azure: one virtual machine per pod VM."""
