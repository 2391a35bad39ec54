"""Settings: what a file and an environment come to, and what is said about a wrong one."""

import base64
import gzip
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from adaptor import config, names, upstream_env
from adaptor.config import Config, ConfigError, load
from adaptor.errors import AdaptorError
from providers import registry
from providers.settings import settings_of

AMI = "ami-0123456789abcdef0"
ENOUGH = {"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": AMI}
INITDATA = 'version = "0.1.0"\nalgorithm = "sha256"\n\n[data]\n"policy.rego" = "package agent_policy"\n'


@pytest.fixture(autouse=True)
def no_file_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(names, "CONFIG_FILE", str(tmp_path / "none.toml"))


def from_file(tmp_path: Path, text: str, env: Mapping[str, str] = ENOUGH) -> Config:
    path = tmp_path / "peerpods.toml"
    path.write_text(text)
    path.chmod(0o600)
    return load(str(path), env)


def faults(tmp_path: Path, text: str = "", env: Mapping[str, str] = ENOUGH) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        from_file(tmp_path, text, env)
    return {fault.key: f"{fault.problem}; allowed: {fault.allowed}" for fault in caught.value.faults}


def packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def test_the_environment_of_an_upstream_node_is_enough() -> None:
    config = load(None, ENOUGH | {"NODE_NAME": "worker-1", "PROXY_TIMEOUT": "1m30s", "PROBE_PORT": "8001"})
    assert config.cloud.provider == "aws"
    assert config.settings.image == AMI
    assert config.node.name == "worker-1"
    assert config.guest.start_timeout == 90.0
    assert config.http.listen == ("", 8001)
    assert config.node.hypervisor_socket == names.HYPERVISOR_SOCKET
    assert config.warnings == ()


def test_the_environment_wins_over_the_file_and_an_empty_name_does_not_count(tmp_path: Path) -> None:
    text = '[node]\nname = "from-file"\n[guest]\nport = 16000\n'
    config = from_file(tmp_path, text, ENOUGH | {"NODE_NAME": "from-env", "FORWARDER_PORT": ""})
    assert config.node.name == "from-env"
    assert config.guest.port == 16000
    assert config.sources["guest.port"] == str(tmp_path / "peerpods.toml")


def test_each_key_knows_where_it_came_from(tmp_path: Path) -> None:
    config = from_file(tmp_path, "[guest]\nport = 16000\n", ENOUGH | {"NODE_NAME": "w"})
    assert config.sources["node.name"] == "NODE_NAME"
    assert config.sources["guest.port"] == str(tmp_path / "peerpods.toml")
    assert config.sources["guest.flavor"] == "default"
    assert config.sources["aws.image"] == "PODVM_AMI_ID"


def test_a_node_without_a_name_takes_the_machines() -> None:
    assert load(None, ENOUGH).node.name == os.uname().nodename.lower()


def test_the_default_file_is_read_when_there_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "default.toml"
    path.write_text("[guest]\nport = 16000\n")
    monkeypatch.setattr(names, "CONFIG_FILE", str(path))
    assert load(None, ENOUGH).guest.port == 16000


def test_every_fault_is_listed_at_once_with_its_key_and_what_is_allowed(tmp_path: Path) -> None:
    text = """
    cloud = 3
    [node]
    nmae = "w"
    pods_dir = "pods"
    [guest]
    port = 0
    flavor = "stock"
    [logs]
    level = "info"
    [limits]
    creates_at_once = "many"
    """
    found = faults(tmp_path, text, {"PROXY_TIMEOUT": "5", "VXLAN_PORT": "x", "TLS_SKIP_VERIFY": "true"})
    assert set(found) == {
        "cloud",
        "cloud.provider",
        "node.nmae",
        "node.pods_dir",
        "guest.port",
        "guest.flavor",
        "logs",
        "limits.creates_at_once",
        "PROXY_TIMEOUT",
        "VXLAN_PORT",
        "TLS_SKIP_VERIFY=true",
    }
    assert "did you mean name?" in found["node.nmae"]
    assert "did you mean log?" in found["logs"]
    assert "own | upstream" in found["guest.flavor"]
    assert "1 to 65535" in found["guest.port"]


def test_the_error_is_one_of_ours_and_reads_as_a_list(tmp_path: Path) -> None:
    with pytest.raises(AdaptorError) as caught:
        from_file(tmp_path, "[guest]\nport = 0\n[log]\nlevel = 3\n")
    first, *rest = str(caught.value).splitlines()
    assert first == f"2 settings are wrong ({tmp_path}/peerpods.toml and environment):"
    assert rest[0] == "  guest.port: 0 is not a port; allowed: a port from 1 to 65535"
    assert len(rest) == 2


def test_a_clouds_unknown_key_gets_a_hint_too(tmp_path: Path) -> None:
    assert "did you mean image?" in faults(tmp_path, '[aws]\nimgae = "ami-1"\n')["aws.imgae"]


@pytest.mark.parametrize(
    ("provider", "said"),
    [("", "must be given"), ("asw", "did you mean aws?"), ("oracle", "'oracle' is no cloud known here;")],
)
def test_a_cloud_that_is_not_known_is_named_with_those_that_are(tmp_path: Path, provider: str, said: str) -> None:
    found = faults(tmp_path, "", {"CLOUD_PROVIDER": provider})
    assert said in found["cloud.provider"]
    assert "aws" in found["cloud.provider"].partition("allowed")[2]


def test_a_fault_of_syntax_shows_its_line_and_column(tmp_path: Path) -> None:
    (text,) = faults(tmp_path, '[node]\nname = "w"\npods_dir = /run\n').values()
    assert "line 3, column 12" in text


def test_a_file_that_is_no_text_or_not_there_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"[node]\n\xff")
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 7\)"):
        load(str(tmp_path / "binary.toml"), ENOUGH)
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load(str(tmp_path / "missing.toml"), ENOUGH)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(str(tmp_path), ENOUGH)


@pytest.mark.parametrize("given", [INITDATA, packed(INITDATA), f"\n{packed(INITDATA)}\n"])
def test_initdata_is_taken_as_toml_or_as_upstream_packs_it(given: str) -> None:
    assert load(None, ENOUGH | {"INITDATA": given}).guest.initdata == INITDATA


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("no = toml = at all", "is not TOML"),
        ('algorithm = "sha256"\n[data]\n', "has no version"),
        ('version = "0.1.0"\nalgorithm = "md5"\n[data]\n', "has no algorithm among sha256"),
        ('version = "0.1.0"\nalgorithm = "sha256"\n', "has no [data] table"),
        ('version = "0.1.0"\nalgorithm = "sha256"\n[data]\nx = 1\n', "has no [data] table of texts"),
        (packed(INITDATA)[:40], "is cut off"),
        ("H4sI====not base64", "is not base64 of gzip"),
        (base64.b64encode(b"\x1f\x8b\x08" + b"x" * 60).decode(), "is not base64 of gzip"),
        (packed("#" * (2 << 20)), "is more than 1048576 bytes unpacked"),
        (base64.b64encode(gzip.compress(b"\xff\xfe", mtime=0)).decode(), "is not UTF-8"),
    ],
)
def test_initdata_that_no_guest_would_take_is_a_fault(tmp_path: Path, given: str, said: str) -> None:
    assert said in faults(tmp_path, "", ENOUGH | {"INITDATA": given})["INITDATA"]


@pytest.mark.parametrize("name", [unused.name for unused in upstream_env.IGNORED])
def test_an_upstream_name_without_effect_is_told_and_accepted(name: str) -> None:
    (warning,) = load(None, ENOUGH | {name: "1"}).warnings
    assert warning.startswith(f"{name} is set and has no effect: ")


@pytest.mark.parametrize("name", [unused.name for unused in upstream_env.REFUSED])
def test_an_upstream_name_that_would_lower_the_guard_is_a_fault_with_the_reason(tmp_path: Path, name: str) -> None:
    (text,) = faults(tmp_path, "", ENOUGH | {name: "true"}).values()
    assert len(text) > 40


@pytest.mark.parametrize("unused", [*upstream_env.IGNORED, *upstream_env.REFUSED], ids=lambda unused: unused.name)
def test_an_upstream_name_at_its_harmless_value_is_no_news(unused: upstream_env.Unused) -> None:
    for value in unused.harmless:
        assert load(None, ENOUGH | {unused.name: value.upper()}).warnings == ()


# Every name that upstream's daemon reads itself, its clouds' own aside.
UPSTREAM = [
    "REMOTE_HYPERVISOR_ENDPOINT",
    "PODS_DIR",
    "PAUSE_IMAGE",
    "FORWARDER_PORT",
    "CACERT_FILE",
    "CERT_FILE",
    "CERT_KEY",
    "TLS_SKIP_VERIFY",
    "TLS_MIN_VERSION",
    "TLS_CIPHER_SUITES",
    "PROXY_TIMEOUT",
    "TUNNEL_TYPE",
    "VXLAN_PORT",
    "EXTERNAL_NETWORK_VIA_PODVM",
    "POD_SUBNET_CIDRS",
    "INITDATA",
    "ENABLE_SCRATCH_SPACE",
    "CLOUD_CONFIG_VERIFY",
    "PEERPODS_LIMIT_PER_NODE",
    "NODE_NAME",
    "POD_UID",
    "CLOUD_PROVIDER",
    "PROBE_PORT",
    "RUNTIMECLASS_NAME",
    "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN",
    "CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH",
    "CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH",
]


def test_no_name_of_upstreams_daemon_is_passed_over_in_silence() -> None:
    honoured = {name for room in config.ROOMS.values() for _, rule in settings_of(room) for name in rule.env}
    told = {unused.name for unused in (*upstream_env.IGNORED, *upstream_env.REFUSED)}
    assert set(UPSTREAM) <= honoured | told
    assert not honoured & told


def test_a_socket_path_too_long_for_the_kernel_is_a_fault(tmp_path: Path) -> None:
    assert "107 bytes" in faults(tmp_path, f'[node]\nrelay_socket = "/{"r" * 107}"\n')["node.relay_socket"]
    assert from_file(tmp_path, f'[node]\nrelay_socket = "/{"r" * 106}"\n').warnings == ()


def test_a_pods_dir_too_long_for_containerds_ids_is_told(tmp_path: Path) -> None:
    longest = "/" + "p" * 29
    assert len(f"{longest}/{'0' * 64}/{names.AGENT_SOCKET}") == 107
    assert from_file(tmp_path, f'[node]\npods_dir = "{longest}"\n').warnings == ()
    (warning,) = from_file(tmp_path, f'[node]\npods_dir = "{longest}p"\n').warnings
    assert "node.pods_dir" in warning


def test_a_table_for_a_cloud_that_is_not_selected_may_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.BUILT_IN, "other", registry.Entry("providers.other", "other"))
    assert from_file(tmp_path, "[other]\nanything = 1\n").cloud.provider == "aws"


@pytest.mark.parametrize(
    ("key", "given", "value"),
    [
        ("http.listen", '""', None),
        ("http.listen", "9100", ("", 9100)),
        ("http.listen", '"[::1]:9100"', ("::1", 9100)),
        ("guest.start_timeout", "120", 120.0),
        ("limits.peerpods_per_node", "-1", -1),
        ("guest.scratch_space", "true", True),
        ("node.cluster", '"prod-eu"', "prod-eu"),
    ],
)
def test_a_setting_is_taken_in_each_of_its_forms(tmp_path: Path, key: str, given: str, value: Any) -> None:
    room, name = key.split(".")
    assert getattr(getattr(from_file(tmp_path, f"[{room}]\n{name} = {given}\n"), room), name) == value


@pytest.mark.parametrize(
    ("key", "given"),
    [
        ("http.listen", '"localhost:9100"'),
        ("http.listen", '"9100:"'),
        ("guest.start_timeout", "0"),
        ("guest.start_timeout", '"2h"'),
        ("guest.initdata", "3"),
        ("node.name", '"Worker_1"'),
        ("node.cluster", '"prod eu"'),
        ("network.first_vni", "16777216"),
    ],
)
def test_a_setting_outside_its_form_is_a_fault(tmp_path: Path, key: str, given: str) -> None:
    room, name = key.split(".")
    assert set(faults(tmp_path, f"[{room}]\n{name} = {given}\n")) == {key}


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ('encryption = "required"', "network.encryption"),
        ('external_network = "vm"\npod_subnets = ["10.244.0.0/16"]', "network.external_network"),
        ('imds = "allowed"', "network.imds"),
    ],
)
def test_what_stock_images_cannot_have_is_a_fault(tmp_path: Path, setting: str, key: str) -> None:
    text = f'[guest]\nflavor = "upstream"\n[network]\n{setting}\n'
    assert set(faults(tmp_path, text)) == {key}
    assert from_file(tmp_path, text.replace("upstream", "own"), ENOUGH).guest.flavor == "own"


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A third cloud, whose settings hold a secret."""
    package = tmp_path / "vaultcloud"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "config.py").write_text(
        "from dataclasses import dataclass\n"
        "from providers import forms\n"
        "from providers.settings import read, setting\n"
        "@dataclass(frozen=True)\n"
        "class Vault:\n"
        "    password: str = setting(forms.matching('[a-z0-9]+', 'a word'), secret=True)\n"
        "def parse(table, env, faults):\n"
        "    return read(Vault, table, where='vault', env=env, faults=faults)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(registry.BUILT_IN, "vault", registry.Entry("vaultcloud", "vault"))


@pytest.mark.usefixtures("vault")
def test_a_file_with_a_secret_that_others_may_read_is_told(tmp_path: Path) -> None:
    config = from_file(tmp_path, '[cloud]\nprovider = "vault"\n[vault]\npassword = "hunter2"\n', {})
    assert config.settings.password == "hunter2"
    assert config.warnings == ()
    path = tmp_path / "peerpods.toml"
    path.chmod(0o640)
    (warning,) = load(str(path), {}).warnings
    assert warning == f"{path} holds vault.password and others may read it: chmod 600 {path}"


@pytest.mark.usefixtures("vault")
def test_a_faulty_secret_is_not_shown(tmp_path: Path) -> None:
    found = faults(tmp_path, '[vault]\npassword = "hunter 2"\n', {"CLOUD_PROVIDER": "vault"})
    assert "(secret) does not have that form" in found["vault.password"]
    assert "hunter" not in str(found)


def test_the_selection_is_read_from_file_and_its_prices_with_it(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text('[on-demand]\n"m6a.large" = 0.0864\n')
    text = f'[selection]\nallow = ["m6a.*"]\ntee = ["snp"]\nspot = "never"\nmax_price = 0.5\nprices = "{prices}"\n'
    config = from_file(tmp_path, text)
    assert config.selection.allow == ("m6a.*",)
    assert config.selection.max_price == 0.5
    assert [(entry.pattern, entry.usd) for entry in config.prices.entries] == [("m6a.large", 0.0864)]
    assert load(None, ENOUGH).prices.entries == ()


def test_what_is_wrong_with_the_selection_and_its_prices_is_listed_with_the_rest(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[on-demand]\nm6a.large = 0.0864\n")
    found = faults(
        tmp_path, f'[selection]\ntee = ["sgx"]\nspot = "yes"\nmax_price = -1\nprices = "{prices}"\n[guest]\nport = 0\n'
    )
    assert set(found) == {
        "selection.tee",
        "selection.spot",
        "selection.max_price",
        f'selection.prices ({prices}): on-demand."m6a"',
        "guest.port",
    }


def test_who_calls_no_cloud_is_not_kept_by_what_the_clouds_table_lacks(tmp_path: Path) -> None:
    path = tmp_path / "peerpods.toml"
    path.write_text('[cloud]\nprovider = "aws"\n[selection]\nallow = ["m6a.*"]\n')
    with pytest.raises(ConfigError):
        load(str(path), {})
    found = load(str(path), {}, needs_cloud=False)
    assert (found.cloud.provider, found.settings, found.selection.allow) == ("aws", None, ("m6a.*",))
    path.write_text("[http]\nlisten = 7.5\n")
    with pytest.raises(ConfigError, match=r"http\.listen"):
        load(str(path), {}, needs_cloud=False)
