"""values.yaml of our chart out of upstream's ConfigMap, Secret and chart values. Pure.

What a name means is asked of the settings themselves (their environment aliases) and of `upstream_env`, so that this says
what an adaptor with that environment would do. No value of a Secret is taken in.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from adaptor import config_network, upstream_env
from adaptor.cli.reference import value_text
from adaptor.config import ROOMS
from adaptor.errors import InvalidRequest
from providers import registry
from providers.settings import MISSING, Setting, settings_of

Tree = dict[str, Any]
Path = tuple[str, ...]

# Settings that the chart decides, and by what.
OWNED: Final[Mapping[str, Mapping[str, str]]] = {
    "node": {"name": "the node's own name", "spawn_relay": "the relay is a DaemonSet"},
    "kubernetes": {
        "enabled": "always on",
        "kubeconfig": "the service account's",
        "namespace": "the release's namespace",
    },
    "webhook": {
        "listen": "the chart's Service leads to 9443",
        "certificates": "the mount of the Secret",
        "offerings": "the mount of what the controller writes",
        "quota": "on where [quota] says something",
    },
    "controller": {
        "webhook_certificates": "webhook.certManager.enabled",
        "webhook_service": "the chart's Service",
        "webhook_configurations": "the chart's webhook configurations",
    },
}

_OUTSIDE: Final = "EXTERNAL_NETWORK_VIA_PODVM"
# Read by the clouds' SDKs; no settings of ours.
_CREDENTIALS: Final = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})
_BY_KUBERNETES: Final = frozenset({"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"})
# Of upstream's chart: where each of its values is in ours. (upstream's path, ours)
_MOVED: Final[Sequence[tuple[Path, Path]]] = (
    (("daemonset", "podLabels"), ("adaptor", "podLabels")),
    (("daemonset", "serviceAccount", "annotations"), ("adaptor", "serviceAccount", "annotations")),
    (("resourceCtrl", "podLabels"), ("controller", "podLabels")),
    (("resourceCtrl", "serviceAccount", "annotations"), ("controller", "serviceAccount", "annotations")),
    (("webhook", "replicas"), ("webhook", "replicas")),
    (("webhook", "resources"), ("webhook", "resources")),
    (("webhook", "failurePolicy"), ("webhook", "failurePolicy")),
    (("webhook", "certManager", "enabled"), ("webhook", "certManager", "enabled")),
    (("imagePullSecrets",), ("imagePullSecrets",)),
)
# Those that have no place, and why.
_GONE: Final[Mapping[Path, str]] = {
    ("image",): "upstream's image; ours is to be named in image.repository",
    ("limit",): "upstream's templates do not use it; config.limits.peerpods_per_node does it",
    ("daemonset", "updateStrategy"): "the adaptor may be replaced at any time; see adaptor.maxUnavailable",
    ("resourceCtrl",): "our controller takes its place; two must not run",
    ("webhook",): "has no counterpart",
    ("kata-deploy",): "kata-deploy is no part of this chart: keep it as a release of its own, with its remote shim",
    ("secrets", "tlsCerts"): "certificates of your own are not supported yet; the node makes its own authority",
    ("secrets", "existingTlsSecretName"): "certificates of your own are not supported yet",
    ("secrets", "existingSshKeySecretName"): "pod VMs get no SSH key from here",
    ("daemonset",): "has no counterpart",
    ("secrets",): "has no counterpart",
}


@dataclass(slots=True)
class Source:
    """What was read, put together."""

    variables: dict[str, str] = field(default_factory=dict)  # of ConfigMaps and of the chart's providerConfigs
    secret_keys: list[str] = field(default_factory=list)
    secret: str = ""  # its name
    chart: Tree = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Migration:
    """`values` with `comments` by path; the decisions somebody has to take; what was left out, and why."""

    values: Tree
    comments: Mapping[Path, str]
    decide: Sequence[str]
    dropped: Sequence[str]


def gather(documents: Sequence[Any]) -> Source:
    """ConfigMaps, Secrets, lists of them, and chart values (what has no kind). Raises: InvalidRequest."""
    found = Source()
    for each in documents:
        if each is None:
            continue
        if not isinstance(each, dict):
            raise InvalidRequest(
                "a document is no table: give ConfigMaps, Secrets (kubectl get -o yaml), or chart values"
            )
        match each.get("kind"):
            case "List":
                inner = gather(each.get("items") or [])
                found.variables |= inner.variables
                found.secret_keys += inner.secret_keys
                found.secret = found.secret or inner.secret
            case "ConfigMap":
                found.variables |= _texts(each.get("data") or {})
            case "Secret":
                found.secret_keys += [*(each.get("data") or {}), *(each.get("stringData") or {})]
                found.secret = (each.get("metadata") or {}).get("name", "")
            case None:
                found.chart |= each
            case other:
                raise InvalidRequest(
                    f"a {other} says nothing about the adaptor: give its ConfigMap, Secret or chart values"
                )
    _unpack(found)
    return found


def migrate(found: Source) -> Migration:
    """Raises: InvalidRequest for a cloud that is not known here."""
    made = _Made()
    cloud = found.variables.get("CLOUD_PROVIDER", "")
    if cloud not in registry.BUILT_IN:
        known = ", ".join(registry.BUILT_IN)
        problem = f'the cloud "{cloud}" is not supported' if cloud else "no CLOUD_PROVIDER is given"
        raise InvalidRequest(f"{problem}: known here are {known}")
    made.begin(cloud)
    _variables(found.variables, cloud, made)
    _secrets(found, cloud, made)
    _chart(found.chart, made)
    return Migration(made.values, made.comments, made.decide, made.dropped)


def text(done: Migration) -> str:
    """values.yaml."""
    lines = ["# Made by `peerpods migrate`. docs/migration.md says how to go on."]
    if done.decide:
        lines += ["#", "# To decide (DECIDE below):", *(f"#   - {each}" for each in done.decide)]
    if done.dropped:
        lines += ["#", "# Left out:", *(f"#   - {each}" for each in done.dropped)]
    return "\n".join([*lines, "", *_yaml(done.values, done.comments)]) + "\n"


class _Made:
    def __init__(self) -> None:
        self.values: Tree = {}
        self.comments: dict[Path, str] = {}
        self.decide: list[str] = []
        self.dropped: list[str] = []

    def set(self, path: Path, value: Any, comment: str = "") -> None:
        holder = self.values
        for part in path[:-1]:
            holder = holder.setdefault(part, {})
        holder[path[-1]] = value
        if comment:
            self.comments[path] = comment

    def begin(self, cloud: str) -> None:
        """What differs for everybody."""
        self.set(("image", "repository"), "", "DECIDE: the image of manifests/images/Containerfile, in your registry")
        self.set(("config", "cloud", "provider"), cloud)
        self.set(
            ("config", "node", "cluster"),
            "",
            "DECIDE: marks this cluster's VMs in the cloud; upstream had no such mark",
        )
        self.set(
            ("config", "guest", "flavor"),
            "upstream",
            "your pod VM images are upstream's; `own` with images of ours, which survive broken links without a loss",
        )
        self.set(
            ("config", "webhook", "mode"),
            "zero",
            "upstream strips resources, which makes every pod BestEffort; `strip` does the same",
        )
        self.set(
            ("config", "kubernetes", "pull_secrets"),
            "node",
            "upstream reads every Secret of the cluster; `own` does the same, `node` reads what each kubelet may read",
        )
        self.set(
            ("adaptor", "nodeSelector"),
            {"node.kubernetes.io/worker": "", "katacontainers.io/kata-runtime": None},
            "upstream's; ours is the label that kata-deploy sets, taken out by its null",
        )
        self.decide += ["image.repository", "config.node.cluster"]


def _texts(data: Mapping[Any, Any]) -> dict[str, str]:
    return {str(key): _text(value) for key, value in data.items() if value is not None}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unpack(found: Source) -> None:
    """The variables that the chart's values hold become variables."""
    chart = found.chart
    cloud = chart.pop("provider", None)
    configs = chart.pop("providerConfigs", None) or {}
    secrets = chart.pop("providerSecrets", None) or {}
    tls = chart.pop("tlsProfile", None) or {}
    if cloud:
        found.variables.setdefault("CLOUD_PROVIDER", str(cloud))
    cloud = found.variables.get("CLOUD_PROVIDER", "")
    for name, value in _texts(configs.get(cloud) or {}).items():
        found.variables.setdefault(name, value)
    for name, key in (("TLS_MIN_VERSION", "minVersion"), ("TLS_CIPHER_SUITES", "cipherSuites")):
        if tls.get(key):
            found.variables.setdefault(name, _text(tls[key]))
    found.secret_keys += [str(name) for name in secrets.get(cloud) or {}]
    if runtime_class := _at(chart, ("webhook", "targetRuntimeClass"), pop=True):
        found.variables.setdefault("TARGET_RUNTIMECLASS", str(runtime_class))
    if name := _at(chart, ("secrets", "existingSecretName"), pop=True):
        found.secret = str(name)
    _at(chart, ("secrets", "mode"), pop=True)


def aliases(cloud: str) -> dict[str, tuple[str, str, Setting, Any]]:
    """Environment name -> (table, key, setting, default); of several settings, the room's before the cloud's."""
    rooms = {**ROOMS, cloud: type(registry.parse_config(cloud, {}, {}, []))}
    return {
        name: (table, key.name, rule, key.default)
        for table, room in reversed(rooms.items())
        for key, rule in settings_of(room)
        for name in rule.env
    }


def _variables(variables: Mapping[str, str], cloud: str, made: _Made) -> None:
    known = aliases(cloud)
    unused = {each.name: each for each in (*upstream_env.REFUSED, *upstream_env.IGNORED)}
    _outside(variables, cloud, made)
    for name, value in sorted(variables.items()):
        if value == "" or name == "CLOUD_PROVIDER":
            continue
        if name in known:
            stronger = next(each for each in known[name][2].env if variables.get(each))
            if stronger != name:
                made.dropped.append(f"{name}: {stronger} counts before it")
            else:
                _setting(name, value, known[name], made)
        elif name in _CREDENTIALS:
            made.decide.append(f"{name} is a credential and stands in a ConfigMap: put it into the Secret")
        elif name in _BY_KUBERNETES:
            made.dropped.append(
                f"{name}: set by the cloud's own webhook; annotate adaptor.serviceAccount and controller's"
            )
        elif name in unused:
            _unused(unused[name], value, made)
        else:
            made.dropped.append(f"{name}: nothing here reads it for {cloud}")


def _outside(variables: Mapping[str, str], cloud: str, made: _Made) -> None:
    """Upstream's yes gives every VM a second network card, and finds the pods' networks out by itself, or not."""
    said = config_network.external(variables.get(_OUTSIDE, ""))
    if said not in ("nic", "vm"):
        return
    if cloud == "aws" and said == "nic":
        made.set(("config", "aws", "secondary_interface"), True, _OUTSIDE)
    elif said == "nic":
        made.decide.append(
            f"{_OUTSIDE}: {cloud}'s VMs have one network card; config.network.external_network: vm or off"
        )
    if not variables.get("POD_SUBNET_CIDRS"):
        made.decide.append(
            "config.network.pod_subnets: every network of the cluster's pods and services; upstream kept the pod's own "
            "network only in the tunnel"
        )


def _setting(name: str, value: str, known: tuple[str, str, Setting, Any], made: _Made) -> None:
    table, key, rule, default = known
    if rule.secret:
        made.decide.append(f"{name} is a credential and stands in a ConfigMap: put it into the Secret")
    elif key in OWNED.get(table, {}):
        made.dropped.append(f"{name}: the chart's own business ({OWNED[table][key]})")
    else:
        try:
            parsed = rule.form.parse(value)
        except ValueError as error:
            made.decide.append(f"{name}={value} {error}, which upstream passed over; allowed: {rule.form.allowed}")
            return
        parsed = not parsed if name in rule.inverted else parsed
        if parsed == default and default is not MISSING:
            made.dropped.append(f"{name}={value}: the default of config.{table}.{key}")
            return
        plain = tomllib.loads(f"x = {value_text(parsed)}")["x"]
        made.set(("config", table, key), plain, f"{name}={value}" if name in rule.inverted else name)


def _unused(each: upstream_env.Unused, value: str, made: _Made) -> None:
    if not upstream_env.told((each,), {each.name: value}):
        made.dropped.append(f"{each.name}={value}: as it is here anyway")
    elif each in upstream_env.REFUSED:
        made.decide.append(f"{each.name}={value} is not on offer: {each.why}")
    else:
        made.dropped.append(f"{each.name}: no effect here, {each.why}")


def _secrets(found: Source, cloud: str, made: _Made) -> None:
    if not (found.secret or found.secret_keys):
        return
    known = aliases(cloud)
    name = found.secret or "peer-pods-secret"
    keys = sorted(set(found.secret_keys))
    made.set(
        ("credentials", "existingSecret"),
        name,
        "as it is; it has to be in the namespace of this release" + (f". It holds {', '.join(keys)}" if keys else ""),
    )
    for key in keys:
        if key in known and not known[key][2].secret:
            table, setting = known[key][:2]
            made.dropped.append(
                f"{key} of the Secret: config.{table}.{setting}; in the Secret it counts before the file"
            )
        elif key not in known and key not in _CREDENTIALS | _BY_KUBERNETES:
            made.dropped.append(f"{key} of the Secret: nothing here reads it for {cloud}")


def _chart(chart: Tree, made: _Made) -> None:
    if _at(chart, ("webhook", "enabled"), pop=True) is False:
        made.set(
            ("admission",),
            "none",
            "as before: nothing sizes pods; `policy` does from Kubernetes 1.36, without a process",
        )
        made.set(("config", "kubernetes", "capacity"), "off", "nothing asks for kata.peerpods.io/vm then")
    enabled = _at(chart, ("resourceCtrl", "enabled"), pop=True)
    if enabled is False:
        made.dropped.append("resourceCtrl.enabled=false: the controller always runs; without it VMs of dead nodes stay")
    for theirs, ours in _MOVED:
        value = _at(chart, theirs, pop=True)
        if value not in (None, {}, [], ""):
            made.set(ours, value, ".".join(theirs))
    for path in _leaves(chart):
        why = next(
            (_GONE[path[:length]] for length in range(len(path), 0, -1) if path[:length] in _GONE), "has no counterpart"
        )
        made.dropped.append(f"{'.'.join(path)} of the chart: {why}")


def _at(tree: Any, path: Path, *, pop: bool = False) -> Any:
    for part in path[:-1]:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if not isinstance(tree, dict):
        return None
    return tree.pop(path[-1], None) if pop else tree.get(path[-1])


def _leaves(tree: Tree, above: Path = ()) -> Iterator[Path]:
    """Down to what has an entry of its own in _GONE, or is no table."""
    for key, value in tree.items():
        path = (*above, str(key))
        if isinstance(value, dict) and (path not in _GONE or path in (("webhook",), ("daemonset",), ("secrets",))):
            yield from _leaves(value, path)
        elif value not in (None, {}, [], ""):
            yield path


def _yaml(tree: Tree, comments: Mapping[Path, str], above: Path = ()) -> Iterator[str]:
    indent = "  " * len(above)
    for key, value in tree.items():
        path = (*above, key)
        if path in comments:
            yield f"{indent}# {comments[path]}"
        commented_inside = any(each[: len(path)] == path and each != path for each in comments)
        if isinstance(value, dict) and (commented_inside or (len(above) < 2 and path not in comments)):
            yield f"{indent}{_key(key)}:"
            yield from _yaml(value, comments, path)
        else:
            yield f"{indent}{_key(key)}: {json.dumps(value, ensure_ascii=False)}"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
