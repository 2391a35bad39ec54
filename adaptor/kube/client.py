"""The way to the API server: lightkube's asyncio client, opened one way for everybody, and its errors as ours.

Importing this costs lightkube (0.2 s of CPU and 10 MiB in a running adaptor): ask `place.find` first whether there is a cluster at all.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx2 as httpx
from lightkube import ApiError, AsyncClient, ConfigError, KubeConfig
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import User
from lightkube.generic_resource import create_namespaced_resource

from adaptor import names
from adaptor.config import Kubernetes
from adaptor.errors import Unavailable
from adaptor.kube import peerpod, place
from adaptor.kube.errors import Absent, Forbidden, KubernetesError, Outdated, Rejected, Taken
from providers.errors import retry_after

# Seconds. The API server is near and answers in milliseconds; one that does not is away, and nobody waits long for it.
# A watch has no read time-out: the server ends it.
CONNECT: Final = 2.0
READ: Final = 5.0

PeerPod: Final[Any] = create_namespaced_resource(
    names.PEERPOD_GROUP, names.PEERPOD_VERSION, peerpod.KIND, names.PEERPOD_PLURAL
)


def open_client(settings: Kubernetes, service_account: str = place.SERVICE_ACCOUNT) -> AsyncClient | None:
    """A client of the cluster's API server; None when there is no cluster. Nothing is asked of the server yet.

    A token in a file is read again when the server refuses it (lightkube does): kubelet renews it before it expires.
    Raises: Unavailable, saying what is missing or unusable.
    """
    found = place.find(settings, service_account)
    return None if found is None else connect(found)


def connect(where: place.Place) -> AsyncClient:
    """A client of the API server there. Raises: Unavailable."""
    try:
        return AsyncClient(
            _config(where), timeout=httpx.Timeout(READ, connect=CONNECT), field_manager=names.EVENT_SOURCE
        )
    except (ConfigError, OSError, ssl.SSLError, ValueError) as error:
        raise Unavailable(f"cannot use the {where}: {_said(error)}") from error
    except (KeyError, TypeError, AttributeError) as error:  # what lightkube makes of a file without clusters, say
        raise Unavailable(f"cannot use the {where}: a part of it is missing or of the wrong kind ({error})") from error


def _config(where: place.Place) -> SingleConfig:
    if where.kubeconfig:
        config = _kubeconfig(where.kubeconfig)
    else:
        config = KubeConfig.from_service_account(where.service_account)
    chosen = config.get(where.context or None)
    if chosen is None:
        raise ConfigError("it has no current-context")
    return chosen._replace(user=chosen.user or User())


def _kubeconfig(path: str) -> KubeConfig:
    import yaml

    try:
        return KubeConfig.from_file(path)
    except yaml.YAMLError as error:
        raise ConfigError(f"it is not YAML: {error}") from error


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Calls of the client, with whatever they raise as KubernetesError. `doing` says what: "create the PeerPod a/b"."""
    try:
        yield
    except KubernetesError:
        raise
    except (
        Exception
    ) as error:  # lightkube raises its own, its HTTP library's, its decoder's, and KeyError for odd answers
        raise explained(doing, error) from error


def explained(doing: str, error: Exception) -> KubernetesError:
    """The error of a call, as one of ours with a text for people."""
    if isinstance(error, httpx.TimeoutException):
        return KubernetesError(f"cannot {doing}: the API server did not answer in time")
    if not isinstance(error, httpx.HTTPStatusError):
        return KubernetesError(f"cannot {doing}: the API server gave no usable answer: {_said(error)}")
    status = error.status if isinstance(error, ApiError) else None
    response = getattr(error, "response", None)
    code = (status.code if status else None) or (response.status_code if response is not None else 0)
    reason = (status.reason if status else None) or ""
    wait = retry_after(response.headers.get("Retry-After", "")) if response is not None else None
    if wait is None and status and status.details and status.details.retryAfterSeconds:
        wait = float(status.details.retryAfterSeconds)
    text = f"cannot {doing}: {_message(code, _said(error))}"
    return _class(code, reason)(text, code=code, retry_after=wait)


def _class(code: int, reason: str) -> type[KubernetesError]:
    match code:
        case 404:
            return Absent
        case 409:
            return Taken if reason == "AlreadyExists" else Outdated
        case 410:
            return Outdated
        case 401 | 403:
            return Forbidden
        case 408 | 429:
            return KubernetesError
    return Rejected if 400 <= code < 500 else KubernetesError


def _message(code: int, said: str) -> str:
    if (
        code == 403 and "denied" not in said and "exceeded quota" not in said
    ):  # a policy, webhook or quota explains itself
        # Kubernetes' own words: User "system:serviceaccount:ns:name" cannot create resource "peerpods" in API group ...
        return f"{said}. A ClusterRole or Role must grant this"
    if code == 401:
        return f"the API server does not know who this is ({said}): the token is not valid, or not for this cluster"
    return said if code < 500 else f"the API server failed ({code}): {said}"


def _said(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__
