"""The two clusters there are: the world with one node and its kubelet, and the real one that a kubeconfig names."""

import secrets
from pathlib import Path

import yaml
from lightkube import AsyncClient, KubeConfig

from tests.contract.kubernetes.cluster import Cluster, nodes_with_kubelet
from tests.worlds.kubernetes.node import Kubelet, Scheduler
from tests.worlds.kubernetes.world import World


class PlayedCluster(Cluster):
    """`world` behind it, with `scheduler` and the `kubelet` of the node `lab`."""

    real = False
    patience, pause = 5.0, 0.005

    async def _open(self) -> None:
        self.world = await World().__aenter__()
        self.world.admission.options.owner_permission = True  # OpenShift's default; others only allow more
        self.scheduler = Scheduler(self.world)
        self.kubelet = Kubelet(self.world, "lab")
        await self.scheduler.start()
        await self.kubelet.start()
        self.worker = self.kubelet.name
        path = self.kubeconfig_of(self.world.admin(), "default")
        self.admin = AsyncClient(KubeConfig.from_file(path))

    async def _close(self) -> None:
        await self.admin.close()
        await self.scheduler.stop()
        await self.kubelet.stop()
        await self.world.__aexit__()

    def kubeconfig_of(self, token: str, namespace: str) -> Path:
        return self.world.kubeconfig(self._folder / f"kubeconfig-{secrets.token_hex(4)}", token, namespace)


class RealCluster(Cluster):
    """Everything that a test makes there has a name of its own and goes at the end."""

    real = True
    patience, pause = 60.0, 0.2

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        super().__init__(folder)
        self._config = kubeconfig

    async def _open(self) -> None:
        self.admin = AsyncClient(KubeConfig.from_file(self._config))
        found = await nodes_with_kubelet(self.admin)
        assert found, "the cluster has no ready node"
        self.worker = found[0]

    async def _close(self) -> None:
        await self.admin.close()

    def kubeconfig_of(self, token: str, namespace: str) -> Path:
        document = yaml.safe_load(self._config.read_text())
        for entry in document["users"]:
            entry["user"] = {"token": token}
        for entry in document["contexts"]:
            entry["context"]["namespace"] = namespace
        path = self._folder / f"kubeconfig-{secrets.token_hex(4)}"
        path.write_text(yaml.safe_dump(document))
        return path
