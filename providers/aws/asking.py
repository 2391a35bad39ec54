"""How this folder's modules put questions to AWS; provider.py's `_call` is what answers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Ask(Protocol):
    """One call, all pages of it, and what `read` finds in them. Raises the errors of providers.errors; `doing` says
    what failed, on what.
    """

    async def __call__(
        self,
        doing: str,
        method: str,
        request: dict[str, Any],
        read: Callable[[Mapping[str, Any]], Iterable[T]],
        /,
        *,
        service: str = "ec2",
    ) -> Sequence[T]: ...
