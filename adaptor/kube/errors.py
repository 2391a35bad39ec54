"""How the API server says no, or nothing: one class per decision that a caller makes.

    KubernetesError      no usable answer, or one that passes (429, 5xx, time-outs): the same call again, later
    ├── Absent           404: there is no such object (or kind, or namespace)
    ├── Taken            409 on a create: an object of that name exists
    ├── Outdated         409 on a change, 410 on a watch: read again, decide anew
    ├── Forbidden        403: the message names the right that is missing; 401: nobody knows who we are
    └── Rejected         400, 413, 422, ...: the object itself is wrong; repeating is no use

All are Unavailable: what a pod's life needs of Kubernetes can wait.
"""

from adaptor.errors import Unavailable


class KubernetesError(Unavailable):
    """The API server gave no usable answer. `code` is the HTTP status, 0 for none; `retry_after` in seconds, if told."""

    def __init__(self, message: str, *, code: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class Absent(KubernetesError):
    """There is no such object."""


class Taken(KubernetesError):
    """An object of that name exists already."""


class Outdated(KubernetesError):
    """The object, or the watch, is not what the caller takes it for any more."""


class Forbidden(KubernetesError):
    """This service account may not do that."""


class Rejected(KubernetesError):
    """The API server will never take this."""
