"""What each module of the cloud may cost a process."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SDKS = {"azure", "boto3", "botocore", "aiohttp", "moto", "kubernetes_asyncio", "flask", "adaptor", "webhook"}
OPENED = """
from providers import registry
from providers.base import Ownership
from providers.gcp.config import GcpConfig
config = GcpConfig(project="my-project", zones=("us-central1-a",), image="i", endpoint_url="http://127.0.0.1:1")
provider = registry.open_provider("gcp", config, Ownership("c", "n"))
"""


def modules_after(program: str) -> set[str]:
    program += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_provider_costs_googles_sdk_and_no_other() -> None:
    ours = modules_after(OPENED)
    assert "google.auth" in ours
    assert not packages(ours) & SDKS


def test_only_the_services_that_are_used_are_loaded() -> None:
    """All of them cost forty megabytes and most of a second."""
    ours = modules_after(OPENED + "\nprovider._api._clients.of('instances')")
    services = {name.split(".")[4] for name in ours if name.startswith("google.cloud.compute_v1.services.")}
    assert services <= {"instances", "zone_operations"}  # the second is what the first imports


def test_whoever_wants_the_whole_sdk_still_gets_it_and_it_is_the_same() -> None:
    modules_after(
        OPENED
        + """
client = provider._api._clients.of("instances")
from google.cloud import compute_v1
import google.cloud.compute_v1.types
assert compute_v1.InstancesClient is type(client)
assert compute_v1.Instance is google.cloud.compute_v1.types.Instance
assert not hasattr(compute_v1, "no_such_thing")
from google.cloud.compute_v1 import DisksClient
"""
    )


def test_the_whole_sdk_loaded_before_is_taken_as_it_is() -> None:
    modules_after(
        "from google.cloud import compute_v1"
        + OPENED
        + "\nassert type(provider._api._clients.of('instances')) is compute_v1.InstancesClient"
    )


def test_the_pure_modules_reach_no_io_and_no_sdk() -> None:
    pure = "requests, catalog, config, marks, tees, volumes, resources, quotas, findings"
    ours = modules_after(f"from providers.gcp import {pure}")
    bare = modules_after("import uuid, dataclasses, enum, hashlib, json, datetime, base64")
    reached = packages(ours - bare)
    assert not reached & {"asyncio", "socket", "ssl", "subprocess", "time", "threading", "google", "requests"}


def google_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{name}" for name in names]
        yield from (
            n for n in names if n.startswith(("google.cloud", "google.auth", "google.api_core", "google.oauth2"))
        )


def test_nothing_but_the_cloud_and_its_simulator_imports_googles_sdk() -> None:
    """import-linter knows outer packages by their first name only, and google.protobuf is everybody's."""
    root = Path(__file__).parents[4]
    found = {
        path.relative_to(root).parts[:2]
        for room in ("adaptor", "providers", "podvm_images")
        for path in (root / room).rglob("*.py")
        if list(google_imports(path))
    }
    assert ("providers", "gcp") in found
    assert found <= {("providers", "gcp"), ("providers", "simcloud")}
