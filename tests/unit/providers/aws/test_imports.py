"""What each module of the cloud may cost a process."""

import json
import subprocess
import sys

SDKS = {"azure", "google", "aiohttp", "moto", "kubernetes_asyncio", "flask", "adaptor", "webhook"}


def modules_after(program: str) -> set[str]:
    program += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def packages(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


def test_the_provider_costs_boto3_and_nothing_else() -> None:
    ours = modules_after("from providers import registry; registry._module('aws', 'provider')")
    boto3 = modules_after("import asyncio, boto3")
    assert packages(ours) - packages(boto3) - set(sys.stdlib_module_names) == {"providers", "tenacity"}
    assert not packages(ours) & SDKS


def test_the_pure_modules_reach_no_io_and_no_sdk() -> None:
    ours = modules_after("import providers.aws.requests, providers.aws.catalog, providers.aws.config")
    bare = modules_after("")
    assert not (ours - bare) & {"asyncio", "socket", "ssl", "subprocess", "time", "threading", "boto3", "botocore"}


def test_errors_are_told_apart_without_boto3() -> None:
    assert "boto3" not in modules_after("import providers.aws.errors")
