"""What each module of the cloud may cost a process."""

import json
import subprocess
import sys

import pytest

OTHERS = {"boto3", "botocore", "google", "moto", "kubernetes_asyncio", "flask", "adaptor", "webhook"}


def modules_after(program: str) -> set[str]:
    program += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_provider_costs_the_compute_client_and_nothing_else() -> None:
    ours = modules_after("from providers import registry; registry._module('azure', 'provider')")
    sdk = modules_after("import asyncio, aiohttp, tenacity, azure.mgmt.compute.aio")
    assert packages(ours) - packages(sdk) - set(sys.stdlib_module_names) == {"providers"}
    assert not packages(ours) & OTHERS
    assert not {"azure.mgmt.network", "azure.identity", "msal", "cryptography"} & ours


@pytest.mark.parametrize(
    "module", ["requests", "resources", "catalog", "config", "images", "quotas", "volumes", "permissions", "openings"]
)
def test_the_pure_modules_reach_no_io_and_no_sdk(module: str) -> None:
    ours = modules_after(f"import providers.azure.{module}")
    bare = modules_after("")
    assert not (ours - bare) & {"asyncio", "socket", "ssl", "subprocess", "time", "threading", "azure", "azure.core"}


def test_errors_are_told_apart_without_the_compute_client() -> None:
    assert "azure.mgmt.compute" not in modules_after("import providers.azure.errors")
