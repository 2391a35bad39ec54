"""Every setting of the adaptor, typed: one TOML file and the environment (which wins) become a `Config`.

    [node] [guest] [network] [cloud] [selection] [log] [http] [limits] [sweep] [volumes]   the node's rooms
    [kubernetes] [webhook] [controller] [quota]              the cluster's
    [aws], [azure], ...                                      the selected cloud's own, read by its provider

`load` returns a whole Config or raises ConfigError with every fault at once. Nothing else in the adaptor reads the
environment. Environment names other than PEERPODS_* are upstream's and mean what they mean there.
"""

import dataclasses
import difflib
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from adaptor import config_forms as own
from adaptor import config_network, config_prices, names, upstream_env
from adaptor.config_network import Network
from adaptor.errors import AdaptorError
from providers import forms, registry
from providers.base import Tee
from providers.settings import Fault, Faults, read, setting, settings_of

T = TypeVar("T")
Env = Mapping[str, str]

# Bytes that a pod's agent socket adds to pods_dir: two slashes, a sandbox id of 64, `agent.ttrpc`; 107 is the kernel's.
_LONGEST_PODS_DIR: Final = 107 - 2 - 64 - len(names.AGENT_SOCKET)
_NO_PRICES: Final = config_prices.Prices()


@dataclass(frozen=True, slots=True)
class Node:
    """The worker itself and its paths."""

    name: str = setting(own.node_name, "", "this node's name; empty: the machine's", env=("NODE_NAME",))
    cluster: str | None = setting(
        own.cluster_id,
        None,
        "marks this cluster's machines in the cloud; empty: an id made at the first start and kept in state_dir",
        env=("PEERPODS_CLUSTER",),
    )
    hypervisor_socket: str = setting(
        own.unix_socket,
        names.HYPERVISOR_SOCKET,
        "where kata's shim calls; the same as remote_hypervisor_socket in kata's configuration",
        env=("REMOTE_HYPERVISOR_ENDPOINT",),
    )
    pods_dir: str = setting(
        forms.path, names.PODS_DIR, "one directory per pod, with its agent socket", env=("PODS_DIR",)
    )
    relay_socket: str = setting(own.unix_socket, names.RELAY_SOCKET, "where the adaptor finds the relay")
    spawn_relay: bool = setting(
        forms.boolean,
        True,
        "start a relay when none answers, and wireguard-go where it is needed; false where DaemonSets do",
    )
    state_dir: str = setting(
        forms.path, names.STATE_DIR, "journal and keys of this node; must survive a reboot", env=("PEERPODS_STATE_DIR",)
    )


@dataclass(frozen=True, slots=True)
class Guest:
    """The pod VMs: what runs in them and how they are reached."""

    flavor: str = setting(
        forms.choice("own", "upstream"), "own", "own: our pod VM image; upstream: a stock one of cloud-api-adaptor"
    )
    port: int = setting(forms.port, names.GUEST_PORT, "TCP port the guest listens on", env=("FORWARDER_PORT",))
    start_timeout: float = setting(
        own.seconds_between(1, 3600),
        300.0,  # as upstream; kubelet's own patience (4 minutes by default) usually ends first
        "from StartVM to a pod VM that is ready; then the start fails and the VM is deleted",
        env=("PROXY_TIMEOUT",),
    )
    link_grace: float = setting(
        own.seconds_between(0, 3600),
        120.0,
        "how long a running pod whose VM cannot be reached is kept waiting; then it fails",
    )
    adopt_grace: float = setting(
        own.seconds_between(0, 3600),
        180.0,
        "how long a VM whose StartVM was given up waits for the same pod's next attempt; 0: delete it at once",
    )
    initdata: str | None = setting(own.initdata, None, "initdata for pods that bring none", env=("INITDATA",))
    scratch_space: bool = setting(
        forms.boolean, False, "encrypted scratch disk for container images", env=("ENABLE_SCRATCH_SPACE",)
    )
    console_on_failure: bool = setting(
        forms.boolean,
        True,
        "when a pod VM fails, keep what it printed in state_dir/consoles, and tell its last lines in the pod's event and "
        "the log; the cloud must allow reading consoles",
    )


@dataclass(frozen=True, slots=True)
class Cloud:
    """Which cloud; its own settings are in the table of its name."""

    provider: str = setting(forms.text, "", "the cloud that gives pod VMs", env=("CLOUD_PROVIDER",))


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of the machines that the cloud's settings allow pods may get. A pod can narrow this, never widen it;
    docs/instances.md says how one is chosen.
    """

    allow: tuple[str, ...] = setting(forms.strings, (), "only these types, also with wildcards: m6a.*; empty: all")
    deny: tuple[str, ...] = setting(forms.strings, (), "not these types, also with wildcards; stronger than allow")
    families: tuple[str, ...] = setting(
        forms.strings, (), "only these families: m6a (EC2), DCas_v5 (Azure), n2d-standard (GCP); empty: all"
    )
    zones: tuple[str, ...] = setting(forms.strings, (), "only in these zones; empty: all")
    tee: tuple[str, ...] = setting(
        forms.each(forms.choice(*(tee.value for tee in Tee))), (), "only with one of these TEEs; empty: all"
    )
    gpu_models: tuple[str, ...] = setting(forms.strings, (), "GPUs only of these models: L4; empty: all")
    max_price: float | None = setting(
        forms.optional(own.usd),
        None,
        "the most a machine may cost, USD per hour; one whose price is unknown is then refused",
    )
    spot: str = setting(
        forms.choice("never", "allowed", "preferred", "only"),
        "allowed",
        "allowed: pods that ask for spot get it; preferred: every pod does, on demand where there is none",
    )
    prices: str | None = setting(
        forms.optional(forms.path), None, "a TOML file with prices, which count before the cloud's own"
    )


@dataclass(frozen=True, slots=True)
class Log:
    """What is written to stderr."""

    format: str = setting(
        forms.choice("auto", "text", "json"),
        "auto",
        "auto: text on a terminal, else JSON",
        env=("PEERPODS_LOG_FORMAT",),
    )
    level: str = setting(
        forms.choice("debug", "info", "warning", "error"),
        "info",
        "the least that is written",
        env=("PEERPODS_LOG_LEVEL",),
    )


@dataclass(frozen=True, slots=True)
class Http:
    """Metrics and probes."""

    listen: tuple[str, int] | None = setting(
        own.listen, ("127.0.0.1", 8000), "address of /metrics, /healthz, /readyz", env=("PROBE_PORT",)
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once."""

    creates_at_once: int = setting(
        forms.integer(1, 1000), 16, "create calls under way at the same time; more pods wait their turn"
    )
    peerpods_per_node: int = setting(
        forms.integer(-1, 10_000),
        10,
        "pod VMs the scheduler may place here (kata.peerpods.io/vm); 0: no new ones; -1: do not advertise",
        env=("PEERPODS_LIMIT_PER_NODE",),
    )


@dataclass(frozen=True, slots=True)
class Sweep:
    """Cloud resources of this node that nothing here owns any more."""

    interval: float = setting(
        own.seconds_between(0, 86_400), 600.0, "between two looks for leaked resources; 0: only `peerpods gc` looks"
    )
    grace: float = setting(
        own.seconds_between(60, 86_400), 900.0, "how old a resource must be before it can count as leaked"
    )
    delete: bool = setting(forms.boolean, True, "delete what has leaked; false: only log and count it")


@dataclass(frozen=True, slots=True)
class Volumes:
    """Disks of the cloud that CSI drivers have recorded as kata's direct volumes."""

    directory: str = setting(
        forms.path, names.DIRECT_VOLUMES_DIR, "where CSI drivers leave kata's direct-volume records"
    )
    bundles: str = setting(
        forms.path,
        names.CONTAINERD_BUNDLES,
        "containerd's bundles, where a sandbox's pod uid is found; CRI-O tells it by itself",
    )


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """The cluster that this node is in; a node with containerd alone has none."""

    enabled: str = setting(
        forms.choice("auto", "on", "off"), "auto", "auto: in a pod of a cluster, or where a kubeconfig is given"
    )
    kubeconfig: str | None = setting(
        forms.optional(forms.path), None, "a kubeconfig file; without it the pod's own service account is used"
    )
    namespace: str = setting(
        forms.text, "peerpods", "where the cluster's parts of this program live", env=("POD_NAMESPACE",)
    )
    runtime_classes: tuple[str, ...] = setting(
        forms.strings,
        (names.RUNTIME_CLASS,),
        "the runtime classes whose pods run in VMs of their own",
        env=("TARGET_RUNTIMECLASS", "RUNTIMECLASS_NAME"),
    )
    capacity: str = setting(
        forms.choice("status", "device-plugin", "off"),
        "status",
        "how limits.peerpods_per_node reaches the scheduler: in the node's status, or by kubelet's device plugins",
    )
    pull_secrets: str = setting(
        forms.choice("node", "own", "off"),
        "own",
        "who reads pods' image pull secrets: node: this node's kubelet, which may read its own pods' only; own: the "
        "adaptor's service account; off: nobody",
    )
    kubelet_kubeconfig: str = setting(
        forms.path, "/etc/kubernetes/kubelet.conf", "the kubelet's own, for pull_secrets = node"
    )
    events: bool = setting(forms.boolean, True, "tell each pod's owner in events what becomes of its VM")


@dataclass(frozen=True, slots=True)
class Webhook:
    """The admission webhook (`peerpods webhook`), which sizes pods' VMs."""

    listen: tuple[str, int] = setting(forms.host_port, ("0.0.0.0", 9443), "address that the API server calls")
    certificates: str = setting(
        forms.path, "/run/peerpods/webhook", "directory with tls.crt and tls.key; read again whenever they change"
    )
    mode: str = setting(
        forms.choice("zero", "strip"),
        "zero",
        "zero: requests become 0 and limits stay; strip: all resources are removed, as upstream does",
    )
    gpu_resources: tuple[str, ...] = setting(
        forms.strings,
        ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915", "gpu.intel.com/xe"),
        "resources that count as the VM's GPUs",
    )
    vm_resource: str = setting(
        forms.text,
        names.VM_RESOURCE,
        "the resource that every such pod asks one of",
        env=("POD_VM_EXTENDED_RESOURCE",),
    )
    refuse: bool = setting(
        forms.boolean, True, "refuse pods that could never start; false: only those whose wishes cannot be read"
    )
    offerings: str | None = setting(
        forms.optional(forms.path), None, "a file with what the cloud sells, as the controller writes it"
    )
    quota: bool = setting(forms.boolean, False, "hold new pods until the controller finds room for them in [quota]")


@dataclass(frozen=True, slots=True)
class Controller:
    """What one process does for the whole cluster (`peerpods controller`)."""

    lease_duration: float = setting(
        own.seconds_between(5, 300), 15.0, "how long a controller that died keeps the others waiting"
    )
    node_grace: float = setting(
        own.seconds_between(30, 86_400),
        300.0,
        "how long a node must be gone before its pods' VMs are deleted from here",
    )
    webhook_certificates: bool = setting(
        forms.boolean, True, "make and renew the webhook's certificates; false: cert-manager does"
    )
    webhook_service: str = setting(forms.text, "peerpods-webhook", "the webhook's Service, which its certificate names")
    webhook_configurations: tuple[str, ...] = setting(
        forms.strings, ("peerpods",), "the webhook configurations whose caBundle is kept right"
    )
    offerings: bool = setting(forms.boolean, True, "tell the webhook what the cloud sells")


@dataclass(frozen=True, slots=True)
class Quota:
    """How much the pod VMs of the cluster and of each namespace may be together; a namespace's annotation
    kata.peerpods.io/quota counts before this.
    """

    cluster: tuple[tuple[str, int], ...] = setting(
        own.quota, (), 'of the whole cluster: "pods=100,vcpus=400,memory-gib=1600,gpus=8"; what is not named is free'
    )
    namespace: tuple[tuple[str, int], ...] = setting(own.quota, (), "of each namespace, likewise")


ROOMS: Final[Mapping[str, type]] = {
    "node": Node,
    "guest": Guest,
    "network": Network,
    "cloud": Cloud,
    "selection": Selection,
    "log": Log,
    "http": Http,
    "limits": Limits,
    "sweep": Sweep,
    "volumes": Volumes,
    "kubernetes": Kubernetes,
    "webhook": Webhook,
    "controller": Controller,
    "quota": Quota,
}


@dataclass(frozen=True, slots=True)
class Config:
    """A whole, valid configuration. `settings` is the selected cloud's own, `sources` says where each key came from."""

    node: Node
    guest: Guest
    network: Network
    cloud: Cloud
    selection: Selection
    log: Log
    http: Http
    limits: Limits
    sweep: Sweep
    volumes: Volumes
    kubernetes: Kubernetes
    webhook: Webhook
    controller: Controller
    quota: Quota
    settings: Any
    sources: Mapping[str, str]
    warnings: Sequence[str] = ()
    prices: config_prices.Prices = _NO_PRICES  # what the file at selection.prices says

    def tables(self) -> Iterator[tuple[str, Any]]:
        """(table name, its settings), the cloud's last."""
        for name in ROOMS:
            yield name, getattr(self, name)
        if dataclasses.is_dataclass(self.settings):
            yield self.cloud.provider, self.settings


class ConfigError(AdaptorError):
    """The configuration cannot be used; `faults` is everything that is wrong with it."""

    def __init__(self, faults: Sequence[Fault], file: str) -> None:
        self.faults = tuple(faults)
        count = "1 setting is" if len(faults) == 1 else f"{len(faults)} settings are"
        super().__init__("\n  ".join([f"{count} wrong ({file} and environment):", *map(str, faults)]))


def load(path: str | None, env: Env, *, needs_cloud: bool = True) -> Config:
    """The configuration from the file at `path` and from `env`.

    Without `path` the default file is read if there is one; the environment alone may be enough. Who calls no cloud
    may do without one, or with one that is not whole here (`settings` is None then).
    Raises: ConfigError.
    """
    file = path or names.CONFIG_FILE
    table = _parse_file(file) if path or Path(file).exists() else {}
    faults: Faults = [
        Fault(f"{name.name}={env[name.name]}", name.why, "to leave it unset")
        for name in upstream_env.told(upstream_env.REFUSED, env)
    ]
    rooms: dict[str, Any] = {
        name: read(room, _table(table, name, faults), where=name, env=env, faults=faults)
        for name, room in ROOMS.items()
    }
    rooms["node"] = _named(rooms["node"], faults)
    provider = rooms["cloud"].provider
    of_the_cloud: Faults = faults if needs_cloud else []
    settings = _cloud_settings(provider, table, env, of_the_cloud) if provider or needs_cloud else None
    settings = settings if needs_cloud or not of_the_cloud else None
    path = rooms["selection"].prices
    prices = config_prices.read(path, "selection.prices", faults) if path else _NO_PRICES
    faults += config_network.faults(rooms["network"], settings, rooms["guest"].flavor) + _unknown_tables(table)
    if faults:
        raise ConfigError([_with_hint(fault) for fault in faults], file if table else "no file")
    config = Config(**rooms, settings=settings, sources={}, prices=prices)
    sources = {key: source for name, room in config.tables() for key, source in _sources(room, name, table, env, file)}
    return dataclasses.replace(config, sources=sources, warnings=_warnings(config, sources, env, file))


def _parse_file(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        fault = Fault(file, f"is not TOML: {error}", 'TOML: [table] lines with key = "value" lines below them')
    except UnicodeDecodeError as error:
        fault = Fault(file, f"is not UTF-8 text (byte {error.start})", "a TOML file, which is always UTF-8")
    except OSError as error:
        fault = Fault(
            file, f"cannot be read: {error.strerror}", "a TOML file; `peerpods config` prints one to start from"
        )
    raise ConfigError([fault], file)


def _table(tables: Mapping[str, Any], name: str, faults: Faults) -> Mapping[str, Any]:
    table = tables.get(name, {})
    if isinstance(table, dict):
        return table
    faults.append(Fault(name, f"{table!r} is not a table", f"[{name}] and its keys below"))
    return {}


def _named(node: Node, faults: Faults) -> Node:
    if node.name:
        return node
    machine = os.uname().nodename.lower()
    try:
        return dataclasses.replace(node, name=own.node_name.parse(machine))
    except ValueError:
        faults.append(
            Fault("node.name", f"must be given, for the machine's name {machine!r} will not do", own.node_name.allowed)
        )
        return node


def _cloud_settings(provider: str, table: Mapping[str, Any], env: Env, faults: Faults) -> Any:
    known = registry.names()
    if provider in known:
        return registry.parse_config(provider, _table(table, provider, faults), env, faults)
    problem = f"{provider!r} is no cloud known here{_near(provider, known)}" if provider else "must be given"
    faults.append(Fault("cloud.provider", problem, f"{' | '.join(known)}, also as CLOUD_PROVIDER in the environment"))
    return None


def _unknown_tables(table: Mapping[str, Any]) -> Faults:
    known = [*ROOMS, *registry.names()]  # a table for a cloud that is not selected may stay in the file
    return [Fault(key, f"unknown table{_near(key, known)}", ", ".join(known)) for key in table if key not in known]


def _with_hint(fault: Fault) -> Fault:
    if fault.problem != "unknown key":
        return fault
    return dataclasses.replace(
        fault, problem=fault.problem + _near(fault.key.rpartition(".")[2], fault.allowed.split(", "))
    )


def _near(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _sources(room: Any, where: str, tables: Mapping[str, Any], env: Env, file: str) -> Iterator[tuple[str, str]]:
    for field, rule in settings_of(type(room)):
        variable = next((name for name in rule.env if env.get(name)), None)
        yield f"{where}.{field.name}", variable or (file if field.name in tables.get(where, {}) else "default")


def _warnings(config: Config, sources: Mapping[str, str], env: Env, file: str) -> tuple[str, ...]:
    found = [
        f"{name.name} is set and has no effect: {name.why}" for name in upstream_env.told(upstream_env.IGNORED, env)
    ]
    if len(config.node.pods_dir.encode()) > _LONGEST_PODS_DIR:
        found.append(
            f"node.pods_dir is longer than {_LONGEST_PODS_DIR} bytes: with containerd's 64-character sandbox ids the "
            "path of an agent socket will be too long for the kernel"
        )
    secret = {
        f"{name}.{field.name}"
        for name, room in config.tables()
        for field, rule in settings_of(type(room))
        if rule.secret
    }
    shown = sorted(key for key in secret if sources[key] == file)
    if shown and Path(file).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
        found.append(f"{file} holds {', '.join(shown)} and others may read it: chmod 600 {file}")
    return tuple(found)
