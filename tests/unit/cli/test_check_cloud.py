"""`peerpods check --cloud` as a user runs it, with each cloud's real SDK against the simulated cloud."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adaptor.demo.clouds import STAGES
from providers.simcloud.cloud import Simcloud
from providers.simcloud.testing import running_in_thread

FORBIDDEN = {"azure": "Microsoft.Compute/virtualMachines/write", "gcp": "compute.instances.create"}


def checked(cloud: Simcloud, directory: Path) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and findings."""
    provider, settings = cloud.settings()
    table = "".join(f"{key} = {json.dumps(value)}\n" for key, value in {**settings, **STAGES[provider].types}.items())
    config = directory / "peerpods.toml"
    config.write_text(f'[node]\nname = "n1"\n[cloud]\nprovider = "{provider}"\n[{provider}]\n{table}')
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AZURE_", "GOOGLE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "adaptor", "check", "--cloud", "--json", "--config", str(config)],
        env={**kept, **cloud.environment()}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("provider", sorted(STAGES))
def test_a_sound_configuration_passes(provider: str, tmp_path: Path) -> None:
    with running_in_thread(cloud=STAGES[provider].api) as cloud:
        status, findings = checked(cloud, tmp_path)
    assert (status, [each for each in findings if each["grade"] == "fault"]) == (0, [])
    assert len(findings) > 5


@pytest.mark.parametrize("provider", sorted(FORBIDDEN))
def test_a_missing_permission_fails_it_by_name_and_with_its_remedy(provider: str, tmp_path: Path) -> None:
    with running_in_thread(cloud=STAGES[provider].api) as cloud:
        cloud.faults.deny(FORBIDDEN[provider])
        status, findings = checked(cloud, tmp_path)
    faults = [each for each in findings if each["grade"] == "fault"]
    assert status == 1
    assert FORBIDDEN[provider] in json.dumps(faults)
    assert all(each["fix"] for each in faults)
