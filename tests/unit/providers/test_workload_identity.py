"""An adaptor in a pod of EKS, AKS or GKE has no key of its own: the projected token that the cluster gives it is
exchanged for the cloud's, by each provider as it is, at token endpoints played on loopback.

docs/workload-identity.md says what to annotate.
"""

import datetime as dt
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from adaptor.pki import NodePki
from providers.aws.provider import AwsProvider
from providers.azure import credentials
from providers.azure.config import AzureConfig
from providers.errors import Denied
from providers.gcp.api import Api
from providers.gcp.config import GcpConfig
from tests.contract import aws_world
from tests.worlds.identities import Asked, serving

AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
    "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip


# -- EKS --------------------------------------------------------------------------------------------


@asynccontextmanager
async def eks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **env: str) -> AsyncIterator[AwsProvider]:
    """A provider of a simulated EC2 whose process has only this environment to take credentials from."""
    async with aws_world.world() as world:
        for name in AWS_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        provider = world.opened(world.config, world.owner)
        assert isinstance(provider, AwsProvider)
        yield provider


def keys(provider: AwsProvider) -> str:
    return str(provider._session.get_credentials().get_frozen_credentials().access_key)


def in_seconds(seconds: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


async def test_irsa_shows_the_projected_token_to_sts_and_reads_it_again_when_it_was_renewed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("projected-1")

    def sts(asked: Asked) -> tuple[int, str]:
        key = f"ASIA{asked.fields['WebIdentityToken'][-1]:0>16}"
        secret = f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>"
        result = f"<Credentials>{secret}<Expiration>{in_seconds(60)}</Expiration></Credentials>"
        name = "AssumeRoleWithWebIdentity"
        return 200, (
            f'<{name}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{name}Result>{result}</{name}Result>'
            f"</{name}Response>"
        )

    role = "arn:aws:iam::123456789012:role/peerpods"
    with serving(sts) as endpoint:
        variables = {"AWS_ROLE_ARN": role, "AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}
        async with eks(monkeypatch, tmp_path, **variables, AWS_ENDPOINT_URL_STS=endpoint.url) as provider:
            assert list(await provider.list()) == []  # EC2 has taken the signature
            assert keys(provider).endswith("1")
            token.write_text("projected-2")
            await provider.list()
            assert keys(provider).endswith("2")
    first = endpoint.asked[0]
    assert (first.fields["Action"], first.fields["RoleArn"]) == ("AssumeRoleWithWebIdentity", role)
    assert "authorization" not in first.headers


async def test_pod_identity_asks_the_agent_with_the_pods_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("pod-identity-token")
    given = {"AccessKeyId": "ASIAPODIDENTITY00001", "SecretAccessKey": "s", "Token": "t"}
    with serving(lambda asked: (200, given | {"Expiration": in_seconds(3600)})) as agent:
        variables = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{agent.url}/v1/credentials"}
        variables["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = str(token)
        async with eks(monkeypatch, tmp_path, **variables) as provider:
            await provider.list()
            assert keys(provider) == "ASIAPODIDENTITY00001"
    assert (agent.asked[0].path, agent.asked[0].headers["authorization"]) == ("/v1/credentials", "pod-identity-token")


async def test_a_role_that_does_not_trust_the_service_account_is_denied_with_stss_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("projected")
    refusal = (
        "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>"
        "<Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>"
    )
    with serving(lambda asked: (403, refusal)) as endpoint:
        variables = {"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/other"}
        variables |= {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ENDPOINT_URL_STS": endpoint.url}
        async with eks(monkeypatch, tmp_path, **variables) as provider:
            with pytest.raises(Denied, match="sts:AssumeRoleWithWebIdentity"):
                await provider.list()


# -- AKS --------------------------------------------------------------------------------------------


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A TLS server's context for localhost, whose CA the SDK's HTTP client takes for one of the system's."""
    pki = NodePki.load(tmp_path / "pki")
    server = pki.issue_server("localhost")
    (tmp_path / "server.pem").write_bytes(server.certificate + server.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    monkeypatch.setattr(
        "aiohttp.connector._SSL_CONTEXT_VERIFIED", ssl.create_default_context(cadata=pki.ca_pem.decode())
    )
    return context


def aks(env: dict[str, str]) -> AzureConfig:
    """The settings as the environment that AKS's webhook gives a pod makes them."""
    from providers.azure.config import parse

    required = {
        "AZURE_SUBSCRIPTION_ID": "00000000-0000-4000-8000-000000000001", "AZURE_RESOURCE_GROUP": "g", "AZURE_REGION": "westeurope",
        "AZURE_SUBNET_ID": "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/s",
        "AZURE_IMAGE_ID": "/subscriptions/00000000-0000-4000-8000-000000000001/resourceGroups/g/providers/Microsoft.Compute/images/i",
    }  # fmt: skip
    faults: list[Any] = []
    config = parse({}, required | env, faults)
    assert faults == []
    return config


async def test_aks_workload_identity_shows_the_projected_token_to_entra(
    trusted: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("projected-1")
    client, tenant = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"

    def entra(asked: Asked) -> tuple[int, Any]:
        shown = asked.fields["client_assertion"]
        return 200, {"token_type": "Bearer", "expires_in": 3599, "access_token": f"for-{shown}"}

    with serving(entra, trusted) as endpoint:
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", endpoint.url)  # the SDK's own, also set by AKS
        config = aks({"AZURE_CLIENT_ID": client, "AZURE_TENANT_ID": tenant, "AZURE_FEDERATED_TOKEN_FILE": str(token)})
        _, credential = credentials.policy(config)
        try:
            given = await credential.get_token("https://management.azure.com/.default")
        finally:
            await credential.close()
    asked = next(each for each in endpoint.asked if each.method == "POST")
    assert given.token == "for-projected-1"
    assert asked.path == f"/{tenant}/oauth2/v2.0/token"
    assert asked.fields["client_id"] == client
    assert asked.fields["grant_type"] == "client_credentials"
    assert asked.fields["scope"] == "https://management.azure.com/.default"


# -- GKE, and any other cluster with Google's federation (its metadata server: gcp/test_sdk.py) -------------

GCP = GcpConfig(project="p-12345", zones=("us-central1-a",), image="podvm")


async def google_token(config: GcpConfig) -> str:
    api = Api(config)
    try:
        await api.identify("cannot find credentials that Google accepts")
        return str(api._clients.credentials().token)
    finally:
        await api.aclose()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs this."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


@pytest.mark.parametrize("given", ["file", "setting"])
async def test_a_federated_token_is_exchanged_at_googles_sts_and_for_the_service_account(
    alone: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str
) -> None:
    (tmp_path / "token").write_text("projected")

    def google(asked: Asked) -> tuple[int, Any]:
        if asked.path == "/v1/token":
            return 200, {
                "access_token": "federated",
                "expires_in": 3599,
                "token_type": "Bearer",
                "issued_token_type": "x",
            }
        return 200, {"accessToken": "from-the-account", "expireTime": in_seconds(3600)}

    with serving(google) as endpoint:
        content = json.dumps(
            {
                "type": "external_account",
                "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/k/providers/k",
                "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": f"{endpoint.url}/v1/token",
                "service_account_impersonation_url": f"{endpoint.url}/v1/projects/-/serviceAccounts/a@b:generateAccessToken",
                "credential_source": {"file": str(tmp_path / "token")},
            }
        )
        (tmp_path / "federation.json").write_text(content)
        config = GCP
        if given == "file":
            monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "federation.json"))
        else:
            config = GcpConfig(project="p-12345", zones=("us-central1-a",), image="podvm", credentials=content)
        assert await google_token(config) == "from-the-account"
    exchange, impersonation = endpoint.asked
    assert exchange.fields["subject_token"] == "projected"
    assert exchange.fields["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange"
    assert impersonation.headers["authorization"] == "Bearer federated"
