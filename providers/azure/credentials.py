"""Who asks: azure-identity's credentials as the environment has them, and the SSH key that Azure demands of a VM."""

from functools import cache
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core.pipeline import PipelineContext, PipelineRequest, PipelineResponse
from azure.core.pipeline.policies import AsyncHTTPPolicy
from azure.core.rest import HttpRequest
from azure.mgmt.core.policies import AsyncARMChallengeAuthenticationPolicy

from providers.azure.config import AzureConfig
from providers.errors import InvalidSpec

PUBLIC_CLOUD: Final = "https://management.azure.com"
_METADATA: Final = "/metadata/identity/oauth2/token"
_KEY_BITS: Final = 2048  # Azure takes ssh-rsa of at least so many, in every region and api-version


class _SimulatedToken(AsyncHTTPPolicy[Any, Any]):  # type: ignore[misc]
    """The bearer token that a simulated cloud's own metadata service gives, worth nothing elsewhere: azure-core's policy
    refuses plain http, and so it should with a real one.
    """

    def __init__(self, base: str) -> None:
        super().__init__()
        self._base = base
        self._token = ""

    async def send(self, request: PipelineRequest[Any]) -> PipelineResponse[Any, Any]:
        if not self._token:
            self._token = await self._ask(request)
        request.http_request.headers["Authorization"] = f"Bearer {self._token}"
        response = await self.next.send(request)
        if response.http_response.status_code == 401:
            self._token = ""  # the next call asks for another
        return response

    async def _ask(self, request: PipelineRequest[Any]) -> str:
        query = {"api-version": "2018-02-01", "resource": PUBLIC_CLOUD}
        asked = HttpRequest("GET", self._base + _METADATA, params=query, headers={"Metadata": "true"})
        response = await self.next.send(PipelineRequest(asked, PipelineContext(request.context.transport)))
        await response.http_response.read()
        if response.http_response.status_code != 200:
            return "simulated"  # one that looks at no tokens
        return str(response.http_response.json()["access_token"])


def endpoint(config: AzureConfig) -> str:
    """Where Azure Resource Manager is, without a trailing slash."""
    return (config.endpoint_url or PUBLIC_CLOUD).rstrip("/")


def policy(config: AzureConfig) -> tuple[Any, Any]:
    """How calls are authenticated, and the credential behind it, to be closed (None: there is none).

    Tokens are asked for with the first call, so what is wrong shows there.
    """
    base = endpoint(config)
    if urlsplit(base).scheme == "http":
        return _SimulatedToken(base), None
    credential = _credential(config)
    return AsyncARMChallengeAuthenticationPolicy(credential, f"{base}/.default"), credential


def _credential(config: AzureConfig) -> Any:
    """Not DefaultAzureCredential: it also tries developers' command lines, and names them all in its error."""
    from azure.identity import aio as identity  # 15 MiB, and not for a simulated cloud

    if config.client_secret:
        return identity.ClientSecretCredential(str(config.tenant_id), str(config.client_id), config.client_secret)
    if config.federated_token_file:
        return identity.WorkloadIdentityCredential(
            tenant_id=config.tenant_id, client_id=config.client_id, token_file_path=config.federated_token_file
        )
    return identity.ManagedIdentityCredential(client_id=config.client_id)


def public_key(config: AzureConfig) -> str:
    """The configured public key, else one whose private half is forgotten as soon as it is made: nobody can log in by it.

    Blocking (0.1 s): for a thread. Raises: InvalidSpec.
    """
    if not config.ssh_key_path:
        return _forgotten_key()
    try:
        with open(config.ssh_key_path, encoding="ascii") as file:
            text = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSpec(f"cannot read the public key azure.ssh_key_path: {error}") from error
    if not text.startswith("ssh-"):
        raise InvalidSpec(
            f"{config.ssh_key_path} is no public key: set azure.ssh_key_path to one that begins with ssh-"
        )
    return text


@cache
def _forgotten_key() -> str:
    """One for all VMs of this process: it opens none of them."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
