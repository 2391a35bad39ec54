"""docs/simcloud.md: its part on Compute Engine does what it says."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from providers.simcloud import wishes
from providers.simcloud.faults import Faults
from providers.simcloud.testing import running_in_thread

PAGE = (Path(__file__).parents[4] / "docs" / "simcloud.md").read_text().partition("## Google Compute Engine")[2]
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_quick_start_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with running_in_thread(cloud="gce") as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        names: dict[str, Any] = {}
        exec(PYTHON[0], names)
        for client in ("instances", "operations"):
            names[client].transport.close()
        (instance,) = cloud.instances()
        assert capsys.readouterr().out == f"errors: []\nmy-first-pod has the address {instance.address}\n"
        assert (instance.id, instance.state) == ("us-central1-a/my-first-pod", "terminated")


def test_every_fault_of_the_cookbook_is_understood() -> None:
    cookbook = PAGE.partition("| to see what happens when | say |")[2].partition("\n\n")[0]
    recipes = re.findall(r"`(\w+(?: [^`]*)?)`", cookbook)
    assert len(recipes) >= 7
    for recipe in recipes:
        faults = Faults(kill_instance=lambda instance, reason: None, cut_instance=lambda instance, seconds: None)
        wishes.apply(faults, *wishes.parse(recipe))


def test_the_command_introduces_its_project_and_how_to_use_it() -> None:
    command = [sys.executable, "-m", "adaptor", "simcloud", "--cloud", "gce"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = list(iter(lambda: process.stdout.readline().strip(), "Ctrl-C ends it, and every instance with it."))  # type: ignore[union-attr]
    finally:
        process.terminate()
        process.communicate(timeout=20)
    text = "\n".join(lines)
    assert text.startswith("simcloud plays Compute Engine's us-central1 at http://127.0.0.1:")
    assert "export GCE_METADATA_HOST=127.0.0.1:" in text
    assert 'provider = "gcp"' in text
    assert process.returncode == 0


WITHOUT = """
import sys
sys.modules["google.cloud"] = None
from adaptor.__main__ import main
sys.exit(main())
"""


def test_without_googles_sdk_it_says_what_to_install() -> None:
    command = [sys.executable, "-c", WITHOUT, "simcloud", "--cloud", "gce"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert told.returncode != 0
    assert "playing gce needs google.cloud: pip install 'peerpods[sim,gcp]'" in told.stderr
    assert "Traceback" not in told.stderr
