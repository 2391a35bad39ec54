"""Whether this process is in a cluster, and how its API server is reached. Costs no Kubernetes library."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adaptor.config import Kubernetes
from adaptor.errors import Unavailable

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass(frozen=True, slots=True)
class Place:
    """A kubeconfig or a service account."""

    kubeconfig: str = ""
    context: str = ""  # of the kubeconfig; empty: its current one
    service_account: str = ""  # directory with token, ca.crt and namespace, in a pod

    def __str__(self) -> str:
        return f"kubeconfig {self.kubeconfig}" if self.kubeconfig else f"service account in {self.service_account}"


def find(settings: Kubernetes, service_account: str = SERVICE_ACCOUNT) -> Place | None:
    """Where the API server is; None: there is none, or it is not wanted.

    Raises: Unavailable when kubernetes.enabled is `on` and nothing says where.
    """
    if settings.enabled == "off":
        return None
    if settings.kubeconfig:
        return Place(kubeconfig=settings.kubeconfig)
    # The one place outside config.py: the kubelet sets this in every pod, it is nobody's setting.
    if os.environ.get("KUBERNETES_SERVICE_HOST") and Path(service_account, "token").exists():
        return Place(service_account=service_account)
    if settings.enabled == "on":
        raise Unavailable(
            "kubernetes.enabled is on, and this is no pod with a service account "
            f"(no {service_account}/token, or KUBERNETES_SERVICE_HOST is not set): set kubernetes.kubeconfig"
        )
    return None
