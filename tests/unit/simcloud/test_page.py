"""docs/simcloud.md: its examples run as they stand, and what it says of options is true."""

import asyncio
import re
from pathlib import Path
from typing import Any

import boto3
import pytest

from providers.simcloud import wishes
from providers.simcloud.faults import Faults
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.test_command import ask

PAGE = (Path(__file__).parents[3] / "docs" / "simcloud.md").read_text()
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")


def test_the_quick_start_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], credentials: None
) -> None:
    with running_in_thread() as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        names: dict[str, Any] = {}
        exec(PYTHON[0], names)
        names["ec2"].close()
        (instance,) = cloud.instances()
        assert capsys.readouterr().out == f"{instance.id} has the address {instance.address}\n"
        assert instance.state in ("shutting-down", "terminated")
    boto3.DEFAULT_SESSION = None


def test_the_example_of_a_test_passes_as_one(credentials: None) -> None:
    names: dict[str, Any] = {}
    exec(PYTHON[1], names)
    asyncio.run(names["test_a_full_zone_is_reported"]())
    boto3.DEFAULT_SESSION = None


def test_every_fault_of_the_cookbook_is_understood() -> None:
    cookbook = PAGE.partition("| to see what happens when | say |")[2].partition("\n\n")[0]
    recipes = re.findall(r"`(\w+(?: [^`]*)?)`", cookbook)
    assert len(recipes) >= 15
    for recipe in recipes:
        faults = Faults(kill_instance=lambda instance, reason: None, cut_instance=lambda instance, seconds: None)
        wishes.apply(faults, *wishes.parse(recipe))


def test_every_option_on_the_page_exists() -> None:
    known = set(re.findall(r"--[a-z-]+", ask("--help").stdout))
    own = {"--preserve-credentials"}  # nsenter's
    assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", PAGE)) - own <= known
