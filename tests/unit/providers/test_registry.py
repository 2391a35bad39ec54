"""Names to clouds: only the selected one is imported, a third party's as well as our own."""

import subprocess
import sys
import types
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from providers import registry
from providers.base import Ownership
from providers.registry import Entry
from providers.settings import Fault, Faults

OWNER = Ownership("cluster-a", "node-1")


class StrangeCloud(types.ModuleType):
    """A third party's package: `config` and `provider` in one."""

    @staticmethod
    def parse(table: dict[str, Any], env: dict[str, str], faults: Faults) -> object:
        faults.append(Fault("strange.key", "is strange", "nothing"))
        return ("config", table["key"], env["NAME"])

    @staticmethod
    def open(config: Any, owner: Ownership) -> Any:
        return ("provider", config, owner)


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("config", "provider"):
        monkeypatch.setitem(sys.modules, f"strange_cloud.{part}", StrangeCloud(part))
    monkeypatch.setitem(sys.modules, "strange_cloud", types.ModuleType("strange_cloud"))
    points = EntryPoints([EntryPoint("strange", "strange_cloud", registry.ENTRY_POINT_GROUP)])
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_aws_is_built_in() -> None:
    assert "aws" in registry.names()


@pytest.mark.usefixtures("strange")
def test_a_third_party_cloud_is_named_parsed_and_opened() -> None:
    faults: Faults = []
    config = registry.parse_config("strange", {"key": 1}, {"NAME": "value"}, faults)
    assert config == ("config", 1, "value")
    assert [fault.key for fault in faults] == ["strange.key"]
    opened: Any = registry.open_provider("strange", config, OWNER)
    assert opened == ("provider", config, OWNER)
    assert registry.names() == sorted({*registry.BUILT_IN, "strange"})


def test_an_unknown_cloud_is_a_key_error_with_its_name() -> None:
    with pytest.raises(KeyError, match="nimbus"):
        registry.parse_config("nimbus", {}, {}, [])
    with pytest.raises(KeyError, match="nimbus"):
        registry.open_provider("nimbus", None, OWNER)


def test_a_missing_sdk_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "providers.aws.provider", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"install peerpods\[aws\]"):
        registry.open_provider("aws", None, OWNER)


def test_a_broken_package_of_ours_is_not_blamed_on_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "gone", Entry("providers.gone", "gone"))
    with pytest.raises(ModuleNotFoundError) as caught:
        registry.open_provider("gone", None, OWNER)
    assert "install" not in str(caught.value)


def test_settings_are_parsed_without_any_sdk() -> None:
    program = """
import sys
from providers import registry
registry.parse_config("aws", {"image": "ami-0123456789abcdef0"}, {}, [])
print(sorted({name.partition(".")[0] for name in sys.modules} & {"boto3", "botocore", "urllib3"}))
"""
    assert run(program) == "[]"


def test_naming_clouds_imports_none_of_them() -> None:
    program = """
import sys
from providers import registry
registry.names()
print(sorted(name for name in sys.modules if name.startswith("providers.") and name.count(".") == 2))
"""
    assert run(program) == "[]"
