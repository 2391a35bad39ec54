"""What an instance has printed, from EC2."""

from collections.abc import Iterator, Mapping
from typing import Any

from providers.aws.asking import Ask
from providers.base import console_tail
from providers.errors import InvalidSpec, NotFound


async def read(ask: Ask, instance_id: str) -> str:
    """See SupportsConsole.console."""
    doing = f"cannot read the console of {instance_id}"
    request: dict[str, Any] = {"InstanceId": instance_id}
    try:
        found = await ask(doing, "get_console_output", {**request, "Latest": True}, _output)
    except InvalidSpec as error:
        if error.code == "InvalidInstanceID.Malformed":  # what is no id never was an instance
            raise NotFound(error.message, code=error.code, request_id=error.request_id) from error
        if error.code != "UnsupportedOperation":
            raise
        # Not a Nitro machine: EC2 has what it noted a while after the last boot.
        found = await ask(doing, "get_console_output", request, _output)
    return console_tail("".join(found))


def _output(page: Mapping[str, Any]) -> Iterator[str]:
    yield page.get("Output") or ""  # the SDK has undone the base64
