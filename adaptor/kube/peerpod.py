"""A PeerPod: the record in Kubernetes that a pod's VM exists, or is about to. Pure.

Group, kind, `spec.cloudProvider`, `spec.instanceID` and the finalizer are upstream's; the rest is ours, and optional, so
that objects of either can be read. The schema is manifests/peerpods/crds/peerpods.yaml.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adaptor import names

API_VERSION: Final = f"{names.PEERPOD_GROUP}/{names.PEERPOD_VERSION}"
KIND: Final = "PeerPod"

_NAME_LIMIT: Final = 253
_ID_IN_NAME: Final = 10  # characters of the sandbox's id: enough to tell a pod's sandboxes from each other
_LABEL_LIMIT: Final = 63


@dataclass(frozen=True, slots=True)
class Condition:
    """As metav1.Condition."""

    type: str  # Launched, Reached, Ready
    status: bool
    reason: str  # CamelCase
    message: str = ""
    since: str = ""  # RFC 3339


@dataclass(frozen=True, slots=True)
class PeerPod:
    """One object. Empty = not known (yet), and then left out of the object."""

    name: str
    namespace: str
    cloud: str = ""
    instance_id: str = ""
    node: str = ""
    sandbox: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    token: str = ""  # the create's idempotency token: finds the VM while instance_id is not known
    # -- status
    phase: str = ""  # as sandbox.model.Phase, or "failed"
    instance_type: str = ""
    zone: str = ""
    purchase: str = ""
    tee: str = ""
    price: float | None = None  # USD per hour
    address: str = ""
    reason: str = ""  # why it failed or ended
    times: Mapping[str, str] = field(default_factory=dict)  # event kind -> RFC 3339, in order
    conditions: tuple[Condition, ...] = ()
    # -- metadata as the API server has it
    uid: str = ""
    resource_version: str = ""
    created: str = ""
    deleting: str = ""  # deletionTimestamp
    finalizers: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()  # uids


def name_of(pod_name: str, sandbox: str) -> str:
    """The same for the same sandbox, so that a create may be repeated."""
    suffix = "-" + re.sub(r"[^a-z0-9]", "", sandbox.lower())[:_ID_IN_NAME]
    return pod_name[: _NAME_LIMIT - len(suffix)].rstrip("-.") + suffix


def label(value: str) -> str:
    """`value` as a label may hold it."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", value)[:_LABEL_LIMIT].strip("-._")


def to_object(peerpod: PeerPod) -> dict[str, Any]:
    """The object as it is first created: no status, which is a resource of its own."""
    labels = {names.SANDBOX_LABEL: label(peerpod.sandbox), names.NODE_LABEL: label(peerpod.node)}
    metadata: dict[str, Any] = {
        "name": peerpod.name,
        "namespace": peerpod.namespace,
        "labels": {key: value for key, value in labels.items() if value},
        "finalizers": [names.PEERPOD_FINALIZER],
    }
    if peerpod.pod_uid:
        # blockOwnerDeletion would need the right to set finalizers on pods (OwnerReferencesPermissionEnforcement).
        owner = {"apiVersion": "v1", "kind": "Pod", "name": peerpod.pod_name, "uid": peerpod.pod_uid}
        metadata["ownerReferences"] = [{**owner, "controller": True, "blockOwnerDeletion": False}]
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec(peerpod)}


def spec(peerpod: PeerPod) -> dict[str, Any]:
    """The spec of the object."""
    return _known(
        {
            "cloudProvider": peerpod.cloud,
            "instanceID": peerpod.instance_id,
            "nodeName": peerpod.node,
            "sandboxID": peerpod.sandbox,
            "podName": peerpod.pod_name,
            "podUID": peerpod.pod_uid,
            "token": peerpod.token,
        }
    )


def status(peerpod: PeerPod) -> dict[str, Any]:
    """The status of the object."""
    return _known(
        {
            "phase": peerpod.phase,
            "instanceType": peerpod.instance_type,
            "zone": peerpod.zone,
            "purchase": peerpod.purchase,
            "tee": peerpod.tee,
            "pricePerHour": "" if peerpod.price is None else f"{peerpod.price:.4f}",
            "address": peerpod.address,
            "reason": peerpod.reason,
            "times": dict(peerpod.times),
            "conditions": [
                {
                    "type": each.type,
                    "status": str(each.status),
                    "reason": each.reason,
                    "message": each.message,
                    "lastTransitionTime": each.since,
                }
                for each in peerpod.conditions
            ],
        }
    )


def from_object(found: Mapping[str, Any]) -> PeerPod:
    """The value of any PeerPod object, also one of upstream's, or one without owners, spec or status."""
    metadata, wish, state = (found.get(part) or {} for part in ("metadata", "spec", "status"))
    price = state.get("pricePerHour")
    return PeerPod(
        name=metadata.get("name", ""),
        namespace=metadata.get("namespace", ""),
        cloud=wish.get("cloudProvider", ""),
        instance_id=wish.get("instanceID", ""),
        node=wish.get("nodeName", ""),
        sandbox=wish.get("sandboxID", ""),
        pod_name=wish.get("podName", ""),
        pod_uid=wish.get("podUID", ""),
        token=wish.get("token", ""),
        phase=state.get("phase", ""),
        instance_type=state.get("instanceType", ""),
        zone=state.get("zone", ""),
        purchase=state.get("purchase", ""),
        tee=state.get("tee", ""),
        price=float(price) if price else None,
        address=state.get("address", ""),
        reason=state.get("reason", ""),
        times=dict(state.get("times") or {}),
        conditions=tuple(_condition(each) for each in state.get("conditions") or ()),
        uid=metadata.get("uid", ""),
        resource_version=metadata.get("resourceVersion", ""),
        created=metadata.get("creationTimestamp", "") or "",
        deleting=metadata.get("deletionTimestamp", "") or "",
        finalizers=tuple(metadata.get("finalizers") or ()),
        owners=tuple(each.get("uid", "") for each in metadata.get("ownerReferences") or ()),
    )


def _condition(found: Mapping[str, Any]) -> Condition:
    return Condition(
        type=found.get("type", ""),
        status=found.get("status") == "True",
        reason=found.get("reason", ""),
        message=found.get("message", ""),
        since=found.get("lastTransitionTime", ""),
    )


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}
