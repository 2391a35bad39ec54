"""`peerpods check`, `peerpods config` and the reference page: all made from the settings' own words."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from adaptor import names, upstream_env
from adaptor.cli import parser, reference
from adaptor.config import ROOMS, load
from adaptor.errors import InvalidRequest, Unavailable
from adaptor.podnet import wireguard_choice
from providers import forms, registry
from providers.settings import MISSING, Form, settings_of

REPOSITORY = Path(__file__).parents[3]
ENOUGH = {"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": "ami-0123456789abcdef0"}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine takes part."""
    monkeypatch.setattr(names, "CONFIG_FILE", str(tmp_path / "none.toml"))
    for name, value in ENOUGH.items():
        monkeypatch.setenv(name, value)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = parser.main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def test_check_shows_every_setting_with_its_value_and_source(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "peerpods.toml"
    path.write_text('[guest]\nstart_timeout = 90\n[aws]\ntags = { team = "a b" }\n')
    status, out, err = run(capsys, "check", "--config", str(path))
    rows = {line.split()[0]: line.split(None, 1)[1] for line in out.splitlines()}
    assert (status, err) == (0, "")
    assert rows["guest.start_timeout"].split() == ['"90s"', str(path)]
    assert rows["aws.image"].split() == ['"ami-0123456789abcdef0"', "PODVM_AMI_ID"]
    assert rows["aws.tags"].startswith('{ "team" = "a b" }')
    assert rows["http.listen"].split() == ['"127.0.0.1:8000"', "default"]
    assert {key.partition(".")[0] for key in rows} == {"setting", *ROOMS, "aws"}


@pytest.mark.parametrize("kind", ["kernel", "userspace"])
def test_check_tells_which_wireguard_would_encrypt_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    asked = []

    def choose(wish: str, *, spawn: bool) -> Any:
        asked.append((wish, spawn))
        if len(asked) == 2:
            raise Unavailable("the kernel's WireGuard: it has none; wireguard-go: it is not installed")
        return type("Backend", (), {"kind": kind})

    monkeypatch.setattr(wireguard_choice, "choose", choose)
    path = tmp_path / "peerpods.toml"
    path.write_text('[network]\nencryption = "required"\n[node]\nspawn_relay = false\n')
    status, out, _ = run(capsys, "check", "--config", str(path))
    assert status == 0
    assert out.splitlines()[-1].startswith("WireGuard on this machine: ")
    assert ("kernel" in out.splitlines()[-1]) == (kind == "kernel")
    status, out, _ = run(capsys, "check", "--config", str(path))
    assert status == 0, "it may be another machine than the node"
    assert out.splitlines()[-1].startswith("warning: no WireGuard here, which network.encryption requires")
    assert asked == [("auto", False)] * 2


def test_check_lists_every_fault_and_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "peerpods.toml"
    path.write_text("[guest]\nport = 0\n[log]\nlevel = 3\n")
    status, out, err = run(capsys, "check", "--config", str(path))
    assert (status, out) == (1, "")
    assert "guest.port" in err
    assert "log.level" in err


def test_check_tells_warnings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAUSE_IMAGE", "pause:3")
    status, out, _ = run(capsys, "check")
    assert status == 0
    assert out.splitlines()[-1].startswith("warning: PAUSE_IMAGE is set and has no effect")


def test_check_hides_secrets_and_shortens_documents(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "safecloud"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "config.py").write_text(
        "from dataclasses import dataclass\n"
        "from providers import forms\n"
        "from providers.settings import read, setting\n"
        "@dataclass(frozen=True)\n"
        "class Safe:\n"
        "    phrase: str = setting(forms.text, '', secret=True, env=('SAFE_PHRASE',))\n"
        "def parse(table, env, faults):\n"
        "    return read(Safe, table, where='safe', env=env, faults=faults)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.BUILT_IN, "safe", registry.Entry("safecloud", "safe"))
    monkeypatch.setenv("CLOUD_PROVIDER", "safe")
    monkeypatch.setenv("SAFE_PHRASE", "hunter2")
    monkeypatch.setenv("INITDATA", f'version = "0.1.0"\nalgorithm = "sha256"\n[data]\nx = "{"y" * 200}"\n')
    status, out, _ = run(capsys, "check")
    assert status == 0
    assert "hunter2" not in out
    assert "(secret)" in out
    assert max(map(len, out.splitlines())) < 140


def test_the_printed_configuration_changes_nothing_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "peerpods.toml"
    _, out, _ = run(capsys, "config")
    path.write_text(out)
    plain = load(None, ENOUGH)
    assert load(str(path), ENOUGH) == plain
    assert not any(tomllib.loads(out).values())


def test_the_printed_defaults_are_what_the_settings_read_them_as(tmp_path: Path) -> None:
    """Taking away the comment signs of all settings at once is the same as having no file."""
    lines = []
    for line in reference.toml("aws").splitlines():
        given = line.startswith("#") and not line.startswith("# ")
        lines.append(line[1:] if given and "must be given" not in line and "provider =" not in line else line)
    path = tmp_path / "peerpods.toml"
    path.write_text("\n".join(lines))
    from_defaults, from_file = load(None, ENOUGH), load(str(path), ENOUGH)
    assert set(from_file.sources.values()) == {"CLOUD_PROVIDER", "PODVM_AMI_ID", str(path)}
    for (_, ours), (_, theirs) in zip(from_defaults.tables(), from_file.tables(), strict=True):
        assert ours == theirs


@pytest.mark.parametrize("form", [value for value in vars(forms).values() if isinstance(value, Form)])
def test_a_value_of_any_form_prints_as_toml_that_the_form_reads_back(form: Form) -> None:
    samples: list[Any] = ["text \"and\" 'quotes'", "", "/run", True, 90, "1m30s", 0.25, 443, "7", [], ["a", "b"]]
    samples += [{"k": "v"}, "[::1]:80", ":80", "127.0.0.1:80"]
    read = 0
    for sample in samples:
        try:
            value = form.parse(sample)
        except ValueError:
            continue
        read += 1
        assert form.parse(tomllib.loads(f"x = {reference.value_text(value)}")["x"]) == value
    assert read


def test_a_cloud_that_is_not_known_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="'moon' is no cloud known here; known: aws"):
        reference.toml("moon")


def test_every_setting_says_what_it_is_for() -> None:
    for room in reference._rooms(None).values():
        assert room.__doc__
        for field, rule in settings_of(room):
            assert len(rule.help) > 10, field.name
            assert field.default is MISSING or reference.value_text(field.default)


def test_the_reference_page_is_what_the_settings_say() -> None:
    """When this fails: `make docs`."""
    page = (REPOSITORY / reference.PAGE).read_text()
    assert reference.rewritten(page) == page
    assert reference.markdown() in page


def test_the_reference_page_tells_every_upstream_name_that_has_no_place_here() -> None:
    page = (REPOSITORY / reference.PAGE).read_text()
    for unused in (*upstream_env.REFUSED, *upstream_env.IGNORED):
        assert f"`{unused.name}`" in page
