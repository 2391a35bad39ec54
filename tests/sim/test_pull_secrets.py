"""How a pod's image pull secrets reach its VM, and where else they are to be found."""

import base64
import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from adaptor.errors import InvalidRequest
from adaptor.sandbox.model import SandboxState
from adaptor.sandbox.rooms import Alone
from tests.worlds.node import Node, spec

WEB = spec()
PASSWORD = "hunter2-" * 4


class Cluster(Alone):
    """One whose every pod has a pull secret."""

    def __init__(self, size: int = 0) -> None:
        pair = base64.b64encode(f"user:{PASSWORD}{'x' * size}".encode()).decode()
        self.auth = json.dumps({"auths": {"quay.io": {"auth": pair}}}).encode()

    async def registry_auth(self, state: SandboxState) -> bytes:
        assert state.spec == WEB
        return self.auth


async def test_our_guest_gets_them_at_bind_at_any_size_and_nobody_else_does(node: Node, tmp_path: Path) -> None:
    node.cluster = Cluster(size=2 << 20)
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        assert node.relay.binds[WEB.id].registry_auth == node.cluster.auth
        (launched,) = node.cloud.specs.values()
        assert len(launched.user_data) < 4096
    assert not _on_disk(tmp_path, node.cluster.auth)


async def test_secrets_that_no_bind_can_hold_fail_the_start_with_the_reason_and_leave_no_vm(node: Node) -> None:
    node.cluster = Cluster(size=4 << 20)
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(InvalidRequest, match=r"image pull secrets are .* name only the secrets that the pod needs"):
            await registry.start(WEB.id)
        await node.gone(registry)


async def test_a_stock_guest_gets_them_in_user_data_and_the_journal_forgets_them_with_the_pod(
    node: Node, tmp_path: Path
) -> None:
    node.cluster = cluster = Cluster()
    node.guest = dataclasses.replace(node.guest, flavor="upstream")
    async with node.adaptor() as registry:
        await registry.create(WEB)
        await registry.start(WEB.id)
        (launched,) = node.cloud.specs.values()
        files = {each["path"]: each["content"] for each in yaml.safe_load(launched.user_data)["write_files"]}
        assert json.loads(files["/run/peerpod/auth.json"]) == json.loads(cluster.auth)
        assert _on_disk(tmp_path, launched.user_data), "a repeat of the create call after a crash must be the same"
        await registry.stop(WEB.id, "StopVM")
        await node.gone(registry)
    assert not _on_disk(tmp_path, launched.user_data)


async def test_secrets_that_a_stock_guests_user_data_cannot_hold_cost_no_vm(node: Node) -> None:
    node.cluster = Cluster(size=20_000)
    node.guest = dataclasses.replace(node.guest, flavor="upstream")
    async with node.adaptor() as registry:
        await registry.create(WEB)
        with pytest.raises(InvalidRequest, match="image pull secrets"):
            await registry.start(WEB.id)
        await node.gone(registry)
    assert not node.cloud.calls["create"]


def _on_disk(directory: Path, secret: bytes) -> bool:
    """Whether the node's files hold it, as it is or in base64, even as what SQLite has freed: a piece that is like
    nothing else, from the middle."""
    pieces = [base64.b64encode(secret)[400:440], secret[300:330]]
    return any(piece in file.read_bytes() for file in directory.rglob("*") if file.is_file() for piece in pieces)
