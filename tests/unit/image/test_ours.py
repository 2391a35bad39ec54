"""Which of our modules go into an image: those that are imported there, wherever the import stands."""

from pathlib import Path

import pytest

from podvm_images.image import ours
from podvm_images.image.faults import BuildFault


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {
        "adaptor/__init__.py": "",
        "adaptor/names.py": "",
        "adaptor/late.py": "import adaptor.deep.inner\n",
        "adaptor/deep/__init__.py": "",
        "adaptor/deep/inner.py": "from . import beside\nfrom ..names import X\n",
        "adaptor/deep/beside.py": "import json, pyroute2\n",
        "adaptor/unused.py": "",
        "podvm_images/__init__.py": "",
        "podvm_images/guest/__init__.py": "",
        "podvm_images/guest/__main__.py": "from adaptor import names\ndef f():\n    from adaptor import late\n",
        "podvm_images/guest/development_agent/__init__.py": "",
        "podvm_images/image/__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_late_and_relative_imports_are_followed_and_nothing_else_comes(project: Path) -> None:
    assert set(ours.guest(project, development=False)) == {
        "adaptor/__init__.py",
        "adaptor/names.py",
        "adaptor/late.py",
        "adaptor/deep/__init__.py",
        "adaptor/deep/inner.py",
        "adaptor/deep/beside.py",
        "podvm_images/__init__.py",
        "podvm_images/guest/__init__.py",
        "podvm_images/guest/__main__.py",
    }


def test_the_stand_in_comes_only_with_a_development_image(project: Path) -> None:
    name = "podvm_images/guest/development_agent/__init__.py"
    assert name in ours.guest(project, development=True)
    assert name not in ours.guest(project, development=False)


def test_an_import_that_leads_nowhere_is_named(project: Path) -> None:
    (project / "adaptor/names.py").write_text("import adaptor.gone\n")
    with pytest.raises(BuildFault, match=r"adaptor\.gone"):
        ours.guest(project, development=False)


def test_the_real_guest_brings_neither_the_adaptors_settings_nor_a_cloud() -> None:
    found = ours.guest(development=True)
    assert "adaptor/relay/tls.py" in found
    assert not [
        name
        for name in found
        if name.startswith(("providers/", "adaptor/config", "adaptor/sandbox", "podvm_images/image/"))
    ]


def test_a_file_is_known_by_its_modules_name() -> None:
    assert ours.module("adaptor/relay/tls.py") == "adaptor.relay.tls"
    assert ours.module("adaptor/relay/__init__.py") == "adaptor.relay"
