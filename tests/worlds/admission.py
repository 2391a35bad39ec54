"""AdmissionReviews as an API server sends them, a webhook's files, and what an API server makes of the answer."""

import base64
import copy
import json
from pathlib import Path
from typing import Any, Final

from adaptor.pki import Identity, NodePki

Json = dict[str, Any]
MEMORY: Final = "2147483648"  # in `realistic`, once: another amount makes another pod


def pod(*containers: Json, init: tuple[Json, ...] = (), annotations: Json | None = None, **spec: Any) -> Json:
    """A pod of our runtime class; without `containers` it has one that asks for nothing."""
    found = list(containers) or [container()]
    metadata: Json = {"name": "web", "namespace": "shop", "creationTimestamp": None}
    if annotations is not None:
        metadata["annotations"] = annotations
    more: Json = {"initContainers": list(init)} if init else {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"runtimeClassName": "kata-remote", "containers": found, **more, **spec},
    }


def container(
    name: str = "main", limits: Json | None = None, requests: Json | None = None, *, sidecar: bool = False, **more: Any
) -> Json:
    """With only those resources that are given."""
    resources = {key: value for key, value in (("limits", limits), ("requests", requests)) if value is not None}
    always: Json = {"restartPolicy": "Always"} if sidecar else {}
    return {"name": name, "image": "docker.io/library/busybox:1", "resources": resources, **always, **more}


def review(
    pod: Any, *, uid: str = "705ab4f5-6393-11e8-b7cc-42010a800002", dry_run: bool = False, **request: Any
) -> Json:
    """The question about creating `pod`."""
    return {
        "kind": "AdmissionReview",
        "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": uid,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "name": "web",
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": {"username": "ada", "groups": ["system:authenticated"]},
            "object": pod,
            "oldObject": None,
            "dryRun": dry_run,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "kubectl-create"},
            **request,
        },
    }


def realistic() -> bytes:
    """A review of 8 KB: a Deployment's pod with a sidecar, an init container, probes, volumes and managed fields."""
    env: list[Json] = [{"name": f"SETTING_{n}", "value": f"value-of-setting-{n}"} for n in range(22)]
    env += [{"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}]
    api = {
        "name": "kube-api-access-x7k2p",
        "readOnly": True,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
    }
    mounts = [{"name": "settings", "mountPath": "/etc/web"}, {"name": "data", "mountPath": "/var/lib/web"}, api]
    probe = {
        "httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"},
        "periodSeconds": 10,
        "failureThreshold": 3,
    }
    more: Json = {
        "env": env,
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "volumeMounts": mounts,
        "livenessProbe": probe,
        "readinessProbe": probe,
        "terminationMessagePath": "/dev/termination-log",
        "imagePullPolicy": "IfNotPresent",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True},
    }
    small: Json = {"cpu": "100m", "memory": "128Mi"}
    one: Json = {"cpu": "1", "memory": "512Mi"}
    made = pod(
        container("web", {"cpu": "1500m", "memory": MEMORY}, {"cpu": "500m", "memory": "1Gi"}, **more),
        container("metrics", small, small, env=env[:6], volumeMounts=[api]),
        init=(
            container("migrate", one, one, env=env, volumeMounts=mounts),
            container("proxy", small, small, sidecar=True, volumeMounts=[api]),
        ),
        annotations={"prometheus.io/scrape": "true", "checksum/config": "5f" * 32, "peerpods.io/tee": "snp"},
        volumes=_volumes(),
        overhead={"cpu": "250m", "memory": "120Mi"},
        tolerations=[
            {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            for key in ("not-ready", "unreachable")
        ],
        nodeSelector={"katacontainers.io/kata-runtime": "true"},
    )
    made["metadata"] |= {
        "labels": {"app.kubernetes.io/name": "web", "pod-template-hash": "6d4cf56db6"},
        "generateName": "web-6d4cf56db6-",
        "managedFields": [_managed()],
    }
    return json.dumps(review(made), separators=(",", ":")).encode()


def _volumes() -> list[Json]:
    token = {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}}
    return [
        {"name": "settings", "configMap": {"name": "web", "defaultMode": 420}},
        {"name": "data", "emptyDir": {}},
        {"name": "kube-api-access-x7k2p", "projected": {"sources": [token]}},
    ]


def _managed() -> Json:
    env: Json = {f'k:{{"name":"SETTING_{n}"}}': {".": {}, "f:name": {}, "f:value": {}} for n in range(22)}
    return {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-11-21T18:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app.kubernetes.io/name": {}}},
            "f:spec": {"f:containers": {'k:{"name":"web"}': {"f:env": env}}},
        },
    }


def applied(operations: list[Json], document: Json) -> Json:
    """RFC 6902, as an API server applies it. Raises KeyError, IndexError or ValueError where that would refuse."""
    made = copy.deepcopy(document)
    for operation in operations:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        holder: Any = made
        for part in parents:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        match operation["op"], holder:
            case "add", list():
                if last != "-" and int(last) > len(holder):
                    raise IndexError(operation["path"])
                holder.insert(len(holder) if last == "-" else int(last), copy.deepcopy(operation["value"]))
            case "add", dict():
                holder[last] = copy.deepcopy(operation["value"])
            case "remove", dict():
                del holder[last]
            case _:
                raise ValueError(f"{operation['op']} at {operation['path']}")
    return made


def answered(body: bytes | str, uid: str = "705ab4f5-6393-11e8-b7cc-42010a800002") -> tuple[Json, list[Json]]:
    """(response, patch) of an answer that an API server takes."""
    found = json.loads(body)
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: Json = found["response"]
    assert response["uid"] == uid
    assert isinstance(response["allowed"], bool)
    if "patch" not in response:
        return response, []
    assert response["allowed"]
    assert response["patchType"] == "JSONPatch"
    return response, json.loads(base64.b64decode(response["patch"], validate=True))


def place(directory: Path, identity: Identity) -> None:
    """The files of a Secret volume, swapped as kubelet does: behind one symlink."""
    directory.mkdir(exist_ok=True)
    revisions = len(list(directory.glob("..rev*")))
    revision = directory / f"..rev{revisions}"
    revision.mkdir()
    (revision / "tls.crt").write_bytes(identity.certificate)
    (revision / "tls.key").write_bytes(identity.key)
    link = directory / "..data_tmp"
    link.symlink_to(revision.name)
    link.rename(directory / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")


def authority(directory: Path) -> NodePki:
    """Somebody who signs the webhook's certificates."""
    return NodePki.load(directory)
