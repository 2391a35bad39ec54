"""What the adaptor tells Kubernetes and asks of it. Pods start, run and end without it."""
