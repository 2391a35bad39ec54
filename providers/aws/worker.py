"""What this node knows of its own place in EC2, from its instance metadata (IMDSv2). Blocking: for a thread.

Upstream takes what its settings leave open from here, and so do we, but for the SSH key: a worker's key has no
business in a confidential VM.
"""

import os
import urllib.request
from http.client import HTTPException
from typing import Final

from providers.errors import InvalidSpec

_ENDPOINT_ENV: Final = "AWS_EC2_METADATA_SERVICE_ENDPOINT"  # the SDK's own name for it
_DEFAULT_ENDPOINT: Final = "http://169.254.169.254"
# Seconds. It answers from the hypervisor within milliseconds; off EC2 nothing answers, and nobody shall wait long.
_TIMEOUT: Final = 2.0
_SESSION_LIFE: Final = "60"  # seconds; a handful of reads follow at once


def region() -> str:
    """Where this node runs. Raises: InvalidSpec."""
    return _read("the region", "aws.region", "placement/region")


def subnet_id() -> str:
    """The subnet of this node's first interface. Raises: InvalidSpec."""
    return _read("the subnet", "aws.subnet_ids", f"network/interfaces/macs/{_mac()}/subnet-id")


def security_group_ids() -> tuple[str, ...]:
    """The security groups of this node's first interface. Raises: InvalidSpec."""
    path = f"network/interfaces/macs/{_mac()}/security-group-ids"
    return tuple(_read("the security groups", "aws.security_group_ids", path).split())


def address() -> str:
    """This node's first private address. Raises: InvalidSpec."""
    return _read("the address", "nothing: only the preflight asks", "local-ipv4")


def _mac() -> str:
    return _read("the network interface", "aws.subnet_ids and aws.security_group_ids", "mac")


def _read(what: str, setting: str, path: str) -> str:
    base = os.environ.get(_ENDPOINT_ENV, _DEFAULT_ENDPOINT).rstrip("/") + "/latest/"
    try:
        token = _fetch(
            base + "api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": _SESSION_LIFE}
        )
        return _fetch(base + "meta-data/" + path, headers={"X-aws-ec2-metadata-token": token})
    except (OSError, HTTPException, ValueError) as error:
        raise InvalidSpec(
            f"this node's instance metadata does not tell {what} to launch in ({error}): set {setting}"
        ) from error


def _fetch(url: str, *, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(url, headers=headers, method=method)  # noqa: S310 - http, by its own rules
    # Metadata is link-local: a proxy from the environment would answer for another machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_TIMEOUT) as answer:
        return str(answer.read().decode().strip())
