"""docs/simcloud.md, its part on Azure: the example runs as it stands, and every fault is understood."""

import re
from pathlib import Path
from typing import Any

import pytest

from providers.simcloud import wishes
from providers.simcloud.faults import Faults
from providers.simcloud.testing import running_in_thread

PAGE = (Path(__file__).parents[4] / "docs" / "simcloud.md").read_text()
AZURE = PAGE.partition("\n## Azure\n")[2].partition("\n## ")[0]


def test_the_example_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", AZURE, re.MULTILINE | re.DOTALL)
    with running_in_thread(cloud="arm") as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        names: dict[str, Any] = {}
        exec(example, names)
        (instance,) = cloud.instances()
        assert capsys.readouterr().out == f"my-vm is Succeeded at {instance.address}\n"
        assert instance.state == "terminated"


def test_every_fault_of_the_table_is_understood() -> None:
    table = AZURE.partition("| to see on Azure what happens when | say |")[2].partition("\n\n")[0]
    recipes = [row.split("| ")[-1] for row in table.splitlines()[2:]]
    assert len(recipes) >= 8
    for recipe in recipes:
        faults = Faults(kill_instance=lambda instance, reason: None, cut_instance=lambda instance, seconds: None)
        wishes.apply(faults, *wishes.parse(recipe.strip(" |").strip("`")))
