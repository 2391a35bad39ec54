"""A pod's image pull secrets, read with no more rights than [kubernetes].pull_secrets allows, as one auth.json."""

from lightkube import AsyncClient

from adaptor.config import Kubernetes


class PullSecrets:
    """`client`: the adaptor's own, for pull_secrets = own."""

    def __init__(self, settings: Kubernetes, client: AsyncClient) -> None:
        self._settings = settings
        self._client = client

    async def auth(
        self, namespace: str, pod_name: str, pod_uid: str = "", service_account: str = ""
    ) -> tuple[bytes, list[str]]:
        """(auth.json, notes): empty bytes where the pod has none. A secret that is missing or unusable is a note for
        the pod's owner, never a failure, as with kubelet. Never raises."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Let go of what was opened here."""
