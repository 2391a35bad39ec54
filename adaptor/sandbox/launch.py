"""What a VM is launched with, as pure values: its name, tokens and user-data."""

import base64
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from typing import Any, Final

from adaptor import names
from adaptor.errors import InvalidRequest
from adaptor.sandbox.model import LaunchIntended, SandboxSpec, SandboxState
from adaptor.ttrpc.frames import MAX_PAYLOAD
from providers import tags
from providers.base import LaunchSpec, Ownership, Purchase, Tee, Volume

_TOKEN_BYTES: Final = 32
# Seconds: as long as a deployment's pods arrive. Longer saves no calls.
_TOKEN_LIFE: Final = 120.0
# Bytes of a Bind: relay and guest get it in one frame each, with a few names around it.
BIND_LIMIT: Final = MAX_PAYLOAD - (64 << 10)
# Clouds' shortest limit for a machine's name.
_NAME_LIMIT: Final = 63


def vm_name(spec: SandboxSpec) -> str:
    """`podvm-<pod>-<8 characters of the sandbox id>`, as upstream names it."""
    clean = re.sub(r"[^a-z0-9-]+", "-", spec.pod_name.lower()).strip("-")
    suffix = re.sub(r"[^a-z0-9]+", "", spec.id.lower())[:8] or "x"
    room = _NAME_LIMIT - len("podvm--") - len(suffix)
    return "-".join(x for x in ("podvm", clean[:room].strip("-"), suffix) if x)


def client_token(owner: Ownership, sandbox_id: str, launch: int) -> str:
    """The provider's idempotency token of a sandbox's n-th create: the same after any crash, 64 hex characters."""
    return hashlib.sha256(f"{owner.cluster}\0{owner.node}\0{sandbox_id}\0{launch}".encode()).hexdigest()


class LaunchTokens:
    """The launch token of VMs launched now: where create calls are shared the same for some minutes, for the VMs of one
    call have equal user-data.

    Who reads the token (a VM's root, and a pod that may reach its VM's metadata service) can pose as another VM launched
    with it, if it also answers at that one's address and does so before that one is bound: the cloud gives an address to
    one machine only, and a VM is bound seconds after it listens, once. A token lives no longer than it takes
    for pods that start together to be launched.
    """

    def __init__(self) -> None:
        self._token = b""
        self._until = 0.0

    def draw(self, now: float, *, shared: bool) -> bytes:
        """`now`: seconds of any monotonic scale."""
        if not shared:
            return secrets.token_bytes(_TOKEN_BYTES)
        if not self._token or now >= self._until:
            self._token, self._until = secrets.token_bytes(_TOKEN_BYTES), now + _TOKEN_LIFE
        return self._token


def launch_spec(spec: SandboxSpec, intent: LaunchIntended) -> LaunchSpec:
    """The machine to ask the provider for: the same for every repeat of this intent, whichever sandbox has it now."""
    return LaunchSpec(
        name=intent.name,
        instance_type=intent.instance_type,
        zone=intent.zone,
        image=spec.image or "",
        tee=Tee(intent.tee) if intent.tee else None,
        purchase=Purchase(intent.purchase) if intent.purchase else Purchase.ON_DEMAND,
        root_volume_gib=intent.root_volume_gib,
        scratch_gib=intent.scratch_gib,
        volumes=tuple(Volume(*_disk(each)) for each in intent.volumes),
        user_data=base64.b64decode(intent.user_data),
        tags={
            **dict(_pair(each) for each in intent.labels),
            tags.SANDBOX: intent.sandbox or spec.id,
            tags.TOKEN: intent.token,
            tags.POD_NAMESPACE: spec.pod_namespace,
            tags.POD_NAME: spec.pod_name,
        },
    )


def label_texts(labels: Mapping[str, str]) -> tuple[str, ...]:
    """A pod's labels as LaunchIntended holds them. A label's key has no `=`."""
    return tuple(f"{key}={value}" for key, value in sorted(labels.items()))


def volume_ids(spec: SandboxSpec) -> tuple[str, ...]:
    """The pod's disks as LaunchIntended holds them."""
    return tuple(f"{volume.disk}:ro" if volume.read_only else volume.disk for volume in spec.volumes)


def scratch(state: SandboxState) -> bool:
    """Whether the machine was launched with room for a scratch partition."""
    return state.launch is not None and state.launch.scratch_gib > 0


def _pair(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    return key, value


def _disk(text: str) -> tuple[str, bool]:
    return text.removesuffix(":ro"), text.endswith(":ro")


def own_user_data(launch_token: bytes, worker_ca: bytes, port: int) -> bytes:
    """User-data for our own guest: nothing secret but the launch token (D2)."""
    document = {
        "peerpods": names.GUEST_PROTOCOL,
        "launch_token": base64.b64encode(launch_token).decode(),
        "worker_ca": worker_ca.decode(),
        "port": port,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def upstream_user_data(
    apf: dict[str, Any], initdata: str | None, *, scratch: bool = False, registry_auth: bytes = b""
) -> bytes:
    """User-data for stock upstream images: their parser knows write_files entries of exactly path and content.

    Whoever may read it in the cloud reads the server's key and the pull secrets: such an image has no other way.
    """
    files = {names.UPSTREAM_APF: json.dumps(apf, indent=2)}
    if registry_auth:
        files[f"{names.GUEST_RUN_DIR}/auth.json"] = registry_auth.decode()
    if initdata:
        files[f"{names.GUEST_RUN_DIR}/initdata"] = encode_initdata(initdata)
    if scratch:
        files[f"{names.GUEST_RUN_DIR}/scratch-space.marker"] = "asked for"  # only its being there counts
    lines = ["#cloud-config", "write_files:"]
    for path, content in files.items():
        lines += [f"  - path: {path}", "    content: |", *(f"      {line}" for line in content.splitlines())]
    return ("\n".join(lines) + "\n").encode()


def encode_initdata(toml: str) -> str:
    """base64(gzip(TOML)), the form in which initdata travels; the same bytes every time."""
    import gzip

    return base64.b64encode(gzip.compress(toml.encode(), mtime=0)).decode()


def verify_proof(proof: bytes, launch_token: bytes, nonce: bytes, certificate: bytes) -> bool:
    """Whether the guest that showed `certificate` (DER) on this link holds the launch token."""
    bound = names.LAUNCH_PROOF_LABEL + nonce + hashlib.sha256(certificate).digest()
    return hmac.compare_digest(proof, hmac.new(launch_token, bound, hashlib.sha256).digest())


def check_user_data(user_data: bytes, limit: int, registry_auth: bytes = b"") -> bytes:
    """`user_data`, unless it is larger than the cloud takes; raises InvalidRequest saying by how much, and why."""
    if len(user_data) > limit:
        why = "the pod's initdata is too large"
        if registry_auth:
            why = (
                f"the pod's image pull secrets ({len(registry_auth)} bytes) and its initdata are too large. A stock image "
                "gets them in user-data; our own (guest.flavor = own) gets them later, at any size"
            )
        raise InvalidRequest(f"the VM's user-data is {len(user_data)} bytes and this cloud takes {limit}: {why}")
    return user_data


def check_bind(bind: bytes, registry_auth: bytes) -> bytes:
    """`bind`, unless no frame to the guest can hold it; raises InvalidRequest."""
    if len(bind) > BIND_LIMIT:
        raise InvalidRequest(
            f"what the VM must be given is {len(bind)} bytes, of which the pod's image pull secrets are "
            f"{len(registry_auth)}, and {BIND_LIMIT} is the most: name only the secrets that the pod needs"
        )
    return bind
