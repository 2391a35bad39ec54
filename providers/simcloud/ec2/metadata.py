"""EC2's instance metadata service, versions 1 and 2, for one instance."""

import base64
import json
import re
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web

from providers.simcloud.ec2.account import ACCOUNT_ID, Account, Note

TTL_HEADER: Final = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER: Final = "X-aws-ec2-metadata-token"  # noqa: S105 - a header's name
_TOKEN_PATH: Final = "/latest/api/token"  # noqa: S105 - a path
_LONGEST_TTL: Final = 21600  # seconds: six hours
_USUAL_HOPS: Final = 64  # the kernel's default TTL, for whatever is not the answer to a token request
_VERSIONS: Final = ("1.0", "2021-07-15", "2024-04-11", "latest")

Tree = Mapping[str, Any]  # a leaf is a text, a folder another tree


class Metadata:
    """What one instance learns about itself. Options changed by the API hold from the next request on."""

    def __init__(self, account: Account, note: Note, now: Callable[[], float] = time.monotonic) -> None:
        self._account = account
        self._note = note
        self._now = now
        self._tokens: dict[str, float] = {}  # token -> when it ends

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """`machines.base.Metadata`."""
        options = self._note.instance.metadata_options
        issuing = request.method == "PUT" and request.path == _TOKEN_PATH
        # A token must not leave the instance by more hops than allowed: the answer simply does not arrive.
        _set_ttl(request, int(options.http_put_response_hop_limit) if issuing else _USUAL_HOPS)
        if options.http_endpoint == "disabled":
            return _plain(HTTPStatus.FORBIDDEN)
        if issuing:
            return self._issue(request)
        if request.method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        if not self._may_read(request.headers.get(TOKEN_HEADER), options.http_tokens):
            return _plain(HTTPStatus.UNAUTHORIZED)
        return self._read(request.path)

    def _issue(self, request: web.BaseRequest) -> web.Response:
        if "X-Forwarded-For" in request.headers:  # a proxy that somebody outside talks through
            return _plain(HTTPStatus.FORBIDDEN)
        ttl = request.headers.get(TTL_HEADER, "")
        if not re.fullmatch(r"\d{1,5}", ttl) or not 1 <= int(ttl) <= _LONGEST_TTL:
            return _plain(HTTPStatus.BAD_REQUEST)
        token = secrets.token_urlsafe(40)
        self._tokens = {known: end for known, end in self._tokens.items() if end > self._now()}
        self._tokens[token] = self._now() + int(ttl)
        return web.Response(text=token, headers={TTL_HEADER: ttl})

    def _may_read(self, token: str | None, http_tokens: str) -> bool:
        if token is None:
            return http_tokens != "required"
        return self._tokens.get(token, 0.0) > self._now()

    def _read(self, path: str) -> web.Response:
        version, _, rest = path.lstrip("/").partition("/")
        if not version:
            return web.Response(text="\n".join(_VERSIONS))
        if version not in _VERSIONS:
            return _plain(HTTPStatus.NOT_FOUND)
        if rest.rstrip("/") == "user-data":
            return self._user_data()
        node: Any = self._tree()
        for part in filter(None, rest.split("/")):
            if not isinstance(node, Mapping) or part not in node:
                return _plain(HTTPStatus.NOT_FOUND)
            node = node[part]
        return web.Response(text=_listing(node) if isinstance(node, Mapping) else str(node))

    def _user_data(self) -> web.Response:
        data = self._note.instance.user_data
        if data is None:
            return _plain(HTTPStatus.NOT_FOUND)
        return web.Response(body=base64.b64decode(data.as_bytes()), content_type="application/octet-stream")

    def _tree(self) -> Tree:
        return {
            "dynamic": {"instance-identity": {"document": json.dumps(self._identity(), indent=2)}},
            "meta-data": self._meta_data(),
            **({"user-data": ""} if self._note.instance.user_data is not None else {}),
        }

    def _meta_data(self) -> Tree:
        it, zone = self._note.instance, self._note.instance.availability_zone
        tree: dict[str, Any] = {
            "ami-id": it.image_id,
            "ami-launch-index": it.ami_launch_index,
            "hostname": it.private_dns_name,
            "instance-action": "none",
            "instance-id": it.id,
            "instance-life-cycle": "spot" if it.lifecycle == "spot" else "on-demand",
            "instance-type": it.instance_type,
            "local-hostname": it.private_dns_name,
            "local-ipv4": it.private_ip,
            "mac": it.nics[0].mac_address,
            "network": {"interfaces": {"macs": {it.nics[0].mac_address: self._interface()}}},
            "placement": {"availability-zone": zone, "region": self._account.region_name},
            "reservation-id": self._note.reservation.id,
            "security-groups": "\n".join(group.name for group in it.security_groups),
            "services": {"domain": "amazonaws.com", "partition": "aws"},
        }
        if it.public_ip:
            tree |= {"public-ipv4": it.public_ip, "public-hostname": it.public_dns_name}
        if it.metadata_options.instance_metadata_tags == "enabled":
            tree["tags"] = {"instance": {tag["key"]: tag["value"] for tag in it.get_tags()}}
        return tree

    def _interface(self) -> Tree:
        it = self._note.instance
        subnet = self._account.subnet_of(it.subnet_id)
        return {
            "device-number": "0",
            "interface-id": it.nics[0].id,
            "local-ipv4s": it.private_ip,
            "mac": it.nics[0].mac_address,
            "security-group-ids": "\n".join(group.id for group in it.security_groups),
            "subnet-id": subnet.id,
            "subnet-ipv4-cidr-block": subnet.cidr_block,
            "vpc-id": subnet.vpc_id,
            "vpc-ipv4-cidr-block": self._account.get_vpc(subnet.vpc_id).cidr_block,
        }

    def _identity(self) -> Tree:
        it = self._note.instance
        return {
            "accountId": ACCOUNT_ID,
            "architecture": it.architecture,
            "availabilityZone": it.availability_zone,
            "imageId": it.image_id,
            "instanceId": it.id,
            "instanceType": it.instance_type,
            "pendingTime": it.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "privateIp": it.private_ip,
            "region": self._account.region_name,
            "version": "2017-09-30",
        }


def _listing(tree: Tree) -> str:
    return "\n".join(name + ("/" if isinstance(value, Mapping) else "") for name, value in sorted(tree.items()))


def _plain(status: HTTPStatus) -> web.Response:
    return web.Response(status=status, text=f"{status.value} - {status.phrase}")


def _set_ttl(request: web.BaseRequest, hops: int) -> None:
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
