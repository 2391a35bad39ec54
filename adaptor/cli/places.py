"""Where the verbs for people look: the cluster of a kubeconfig, or this node's own journal."""

import os
import tempfile
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adaptor import names
from adaptor.errors import InvalidRequest, Unavailable

if TYPE_CHECKING:
    from adaptor.config import Config
    from adaptor.kube.reading import Reader

# Where the kubelet gives a pod its service account; `kube.place` has it too, and is not loaded for --help.
_IN_POD = "KUBERNETES_SERVICE_HOST"


@dataclass(frozen=True, slots=True)
class Where:
    """One of both: `kubeconfig` (None: the pod's own service account) for the cluster, or `node`."""

    node: "Config | None" = None
    kubeconfig: str | None = None
    context: str = ""


def chosen(arguments: Namespace) -> Where:
    """What the options say, else what there is. Raises: ConfigError, Unavailable, InvalidRequest."""
    asked = bool(arguments.kubeconfig or arguments.context)
    if asked and arguments.local:
        raise InvalidRequest("--local looks at this node's journal, --kubeconfig and --context at a cluster: say one")
    kubeconfig = _kubeconfig(arguments.kubeconfig)
    if asked and kubeconfig is None:
        raise Unavailable("there is no kubeconfig to take the context from: --kubeconfig FILE, or KUBECONFIG")
    if asked or (kubeconfig is not None and not arguments.local and not arguments.config):
        return Where(kubeconfig=kubeconfig, context=arguments.context or "")
    from adaptor.config import load

    config = load(arguments.config, os.environ, needs_cloud=False)
    journal = Path(config.node.state_dir) / names.JOURNAL
    if arguments.local or arguments.config or journal.exists():
        return Where(node=config)
    if os.environ.get(_IN_POD):
        return Where()
    raise Unavailable(
        f"there is neither a cluster nor a node to look at: no kubeconfig (--kubeconfig FILE, KUBECONFIG, ~/.kube/config) and "
        f"no journal {journal}"
    )


@asynccontextmanager
async def reader(where: Where, system: str) -> AsyncIterator["Reader"]:
    """The way to the cluster. Raises: Unavailable."""
    from adaptor.kube import client, place  # lightkube

    try:
        from adaptor.kube.reading import Reader
    except ModuleNotFoundError as error:  # pragma: no cover - the import above fails first
        raise Unavailable(str(error)) from error
    account = "" if where.kubeconfig else place.SERVICE_ACCOUNT
    opened = client.connect(place.Place(where.kubeconfig or "", where.context, account))
    try:
        yield Reader(opened, system)
    finally:
        await opened.close()


async def settings(found: "Reader", file: str | None) -> "tuple[Config | None, str]":
    """The cluster's configuration, from the file or its ConfigMap, and why there is none. Raises: ConfigError for the
    file's faults."""
    from adaptor.config import ConfigError, load
    from adaptor.kube.errors import KubernetesError

    if file:
        return load(file, os.environ), ""
    try:
        text = await found.settings()
    except KubernetesError as error:
        return None, str(error)
    if not text:
        return None, "the cluster has no ConfigMap with the settings; --config FILE gives them"
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as copy:
        copy.write(text)
        copy.flush()
        try:
            return load(copy.name, os.environ, needs_cloud=False), ""
        except ConfigError as error:
            return None, f"the cluster's settings cannot be used here: {error}"


def _kubeconfig(asked: str | None) -> str | None:
    """The file, as kubectl finds it; of several in KUBECONFIG the first that exists."""
    if asked:
        return asked
    if listed := os.environ.get("KUBECONFIG"):
        files = [each for each in listed.split(os.pathsep) if each]
        return next((each for each in files if Path(each).exists()), files[0] if files else None)
    default = Path.home() / ".kube" / "config"
    return str(default) if default.exists() else None
