"""Where credentials come from, none of which needs a key."""

import json
from pathlib import Path

import pytest

from providers.errors import Denied
from providers.gcp.api import Api
from providers.gcp.config import GcpConfig
from providers.gcp.sdk import Clients
from tests.contract.gcp_world import GcpWorld

CONFIG = GcpConfig(project="peerpods-simcloud", zones=("us-central1-a",), image="podvm")


async def identified(config: GcpConfig) -> Clients:
    api = Api(config)
    try:
        await api.identify("cannot find credentials that Google accepts")
        return api._clients
    finally:
        await api.aclose()


async def test_a_worker_on_compute_engine_is_known_by_its_service_account(
    world: GcpWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no gcloud of whoever runs this
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP", "GCE_METADATA_ROOT"):
        monkeypatch.setenv(name, world.cloud.endpoint_url.partition("://")[2])
    clients = await identified(CONFIG)
    assert str(clients.credentials().token).startswith("ya29.simcloud-")


async def test_nothing_found_is_denied_and_says_where_to_look(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GCE_METADATA_DETECT_RETRIES", "1")
    monkeypatch.setenv("GCE_METADATA_TIMEOUT", "1")
    with pytest.raises(Denied, match=r"credentials"):
        await identified(CONFIG)


async def test_a_federated_identity_is_taken_from_the_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a projected service account token")
    content = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/k",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": str(tmp_path / "token")},
    }
    clients = Clients(
        GcpConfig(project="p-12345", zones=("us-central1-a",), image="i", credentials=json.dumps(content))
    )
    found = clients.credentials()
    assert type(found).__module__ == "google.auth.identity_pool"
    assert found.retrieve_subject_token(None) == "a projected service account token"


def test_a_simulator_gets_no_credentials_and_another_endpoint_does(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Clients(
        GcpConfig(project="p-12345", zones=("us-central1-a",), image="i", endpoint_url="http://127.0.0.1:1")
    )
    assert type(plain.credentials()).__name__ == "AnonymousCredentials"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
    private = Clients(
        GcpConfig(project="p-12345", zones=("us-central1-a",), image="i", endpoint_url="https://psc.example")
    )
    with pytest.raises(Exception, match="nonexistent"):
        private.credentials()
