"""`peerpods instances` as an admin meets it: on simcloud with the real SDK, and on a cloud with more to choose from."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from adaptor import config_prices, daemon, names
from adaptor.catalog.unavailable import CAPACITY_TTL, QUOTA_TTL, UNSUPPORTED_TTL
from adaptor.cli import parser
from adaptor.clock import RealClock
from providers.base import Headroom, Offering, Provider, Purchase, Tee
from providers.errors import Denied
from providers.simcloud.testing import running_in_thread
from tests.worlds.cloud import Cloud

PAGE = Path(__file__).parents[3] / "docs" / "instances.md"
OD, SPOT = Purchase.ON_DEMAND, Purchase.SPOT

Run = Callable[..., tuple[int, str, str]]


def offering(kind: str, vcpus: int, gib: int, price: float | None, **more: Any) -> Offering:
    return Offering(kind, vcpus, gib * 1024, price=price, **{"tee": Tee.SNP, "zone": "us-east-1a", **more})


OFFERINGS = (
    offering("m6a.large", 2, 8, 0.0864),
    offering("m6a.large", 2, 8, 0.0346, purchase=SPOT),
    offering("m6a.large", 2, 8, 0.0864, zone="us-east-1b"),
    offering("m6a.xlarge", 4, 16, 0.1728),
    offering("c6a.xlarge", 4, 8, 0.1530),
    offering("r6a.xlarge", 4, 32, None),
    offering("g6.xlarge", 4, 16, 0.8048, gpus=1, gpu_model="L4", tee=Tee.NONE),
)


class Account(Cloud):
    """With limits to tell."""

    async def quota(self) -> Sequence[Headroom]:
        return [
            Headroom("Running On-Demand Standard instances", 64, 10, types=("m6a.large", "c6a.xlarge")),
            Headroom("Running On-Demand G and VT instances", 8, None, types=("g6.xlarge",)),
        ]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command on a configuration of these tables."""
    monkeypatch.setattr(names, "CONFIG_FILE", str(tmp_path / "peerpods.toml"))
    monkeypatch.setenv("NODE_NAME", "node-1")

    def run(line: str, tables: str = "") -> tuple[int, str, str]:
        (tmp_path / "peerpods.toml").write_text(
            f'[cloud]\nprovider = "aws"\n[aws]\nimage = "ami-0123456789abcdef0"\n{tables}'
        )
        status = parser.main(["instances", *shlex.split(line)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Account:
    account = Account(RealClock())
    account.offered, account.call_seconds = OFFERINGS, 0.0

    async def open_provider(*_: Any) -> Provider:
        return account

    monkeypatch.setattr(daemon, "open_provider", open_provider)
    return account


@pytest.fixture
def simcloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A simulated EC2 account, and the settings for it."""
    with running_in_thread() as cloud:
        for name, value in cloud.environment().items():
            monkeypatch.setenv(name, value)
        more = ("c6a.large", "m6a.xlarge", "r6a.large", "m6a.2xlarge")
        place = f'subnet_ids = ["{cloud.subnet}"]\nsecurity_group_ids = ["{cloud.security_group}"]\n'
        yield f"{place}instance_types = {json.dumps(more)}\n"


def rows(out: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]


# -- with the real SDK ----------------------------------------------------------------------------


def test_list_shows_what_the_cloud_offers(run: Run, simcloud: str) -> None:
    status, out, err = run("list", simcloud)
    assert (status, err) == (0, "")
    found = {row[0]: row for row in rows(out)}
    assert found["m6a.large"][1:7] == ["us-east-1a", "2", "8 GiB", "-", "x86_64", "snp"]
    assert found["m6a.large"][-1] == "default"
    assert {"c6a.large", "r6a.large", "m6a.2xlarge"} < set(found)


def test_choose_says_what_a_pod_would_get(run: Run, simcloud: str) -> None:
    status, out, _ = run("choose --cpu 3 --memory 8Gi --tee snp --json", simcloud)
    answer = json.loads(out)
    assert status == 0
    assert [each["type"] for each in answer["ranked"]][:2] == ["m6a.xlarge", "m6a.2xlarge"]
    assert {each["reason"] for each in answer["rejected"] if each["type"] == "c6a.large"} == {"2 vCPU of 3"}


def test_a_cloud_that_refuses_is_one_readable_line(run: Run, cloud: Account) -> None:
    cloud.refuse["offerings"].append(Denied("not allowed to ec2:DescribeInstanceTypes", code="UnauthorizedOperation"))
    status, out, err = run("list")
    assert (status, out) == (1, "")
    assert err == "peerpods: not allowed to ec2:DescribeInstanceTypes (UnauthorizedOperation)\n"


# -- list -----------------------------------------------------------------------------------------


def test_list_says_what_is_unknown_and_what_the_admin_forbids(run: Run, cloud: Account) -> None:
    _, out, _ = run("list", '[selection]\ndeny = ["c6a.*"]\nspot = "never"\n')
    lines = {(row[0], row[-2]): row for row in rows(out) if len(row) > 2}
    assert any(row[0] == "r6a.xlarge" and "unknown" in row for row in rows(out))
    assert lines["c6a.xlarge", "0.1530"][-1] == "not allowed: in [selection].deny"
    assert lines["m6a.large", "0.0346"][-1].startswith("not allowed: spot")
    assert "1 of 7 prices are unknown" in out


def test_list_for_programs_has_stable_keys(run: Run, cloud: Account) -> None:
    _, out, _ = run("list --json", '[selection]\ndeny = ["c6a.*"]\n')
    answer = json.loads(out)
    assert answer["cloud"] == "aws"
    assert answer["offerings"][0] == {
        "type": "m6a.large",
        "zone": "us-east-1a",
        "vcpus": 2,
        "memory_mib": 8192,
        "gpus": 0,
        "gpu_model": "",
        "architecture": "x86_64",
        "tee": "snp",
        "purchase": "on-demand",
        "usd_per_hour": 0.0864,
        "default": True,
        "allowed": True,
    }
    (denied,) = [each for each in answer["offerings"] if not each["allowed"]]
    assert (denied["type"], denied["rule"], denied["reason"]) == ("c6a.xlarge", "deny", "in [selection].deny")


def test_the_admins_prices_are_shown(run: Run, cloud: Account, tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text('[on-demand]\n"r6a.*" = 0.25\n')
    _, out, _ = run("list", f'[selection]\nprices = "{tmp_path}/prices.toml"\n')
    assert ["r6a.xlarge", "us-east-1a", "4", "32 GiB", "-", "x86_64", "snp", "on-demand", "0.2500"] in rows(out)
    assert "unknown" not in out


# -- choose ---------------------------------------------------------------------------------------


def first(out: str) -> str:
    return rows(out)[1][1]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("choose", "m6a.large"),
        ("choose --cpu 2500m", "c6a.xlarge"),
        ("choose --memory 9Gi", "m6a.xlarge"),
        ("choose --memory 17Gi", "r6a.xlarge"),
        ("choose --gpu 1 --tee none", "g6.xlarge"),
        ("choose --type r6a.xlarge", "r6a.xlarge"),
        ("choose --type 'm6a.*;zone=us-east-1b' --cpu 2", "m6a.large"),
    ],
)
def test_choose_ranks_as_the_adaptor_does(run: Run, cloud: Account, line: str, kind: str) -> None:
    status, out, _ = run(line)
    assert status == 0
    assert first(out) == kind


def test_explain_gives_the_reason_of_every_one_that_is_ruled_out(run: Run, cloud: Account) -> None:
    status, out, _ = run("choose --cpu 4 --memory 8Gi --max-price 0.16 --explain")
    assert status == 0
    ranked, ruled_out = out.split("ruled out:\n")
    assert len(rows(ranked)) - 2 == 1
    reasons = {(row[0], row[-1]) for row in rows(ruled_out)[1:]}
    assert len(rows(ruled_out)) - 1 == len(OFFERINGS) - 1
    assert ("m6a.large", "2 vCPU of 4") in reasons
    assert ("m6a.xlarge", "0.1728 USD/h of at most 0.16") in reasons
    assert ("r6a.xlarge", "price unknown, and at most 0.16 USD/h is allowed") in reasons
    assert ("g6.xlarge", "TEE none, not snp (the default)") in reasons


def test_what_nothing_fits_is_told_in_the_words_of_the_pods_event(run: Run, cloud: Account) -> None:
    status, out, err = run("choose --cpu 2 --memory 99Gi")
    assert (status, out) == (1, "")
    assert err.startswith(
        "peerpods: failed to get instance type based on vCPU and memory annotations: no instance type"
    )
    status, out, _ = run("choose --cpu 2 --memory 99Gi --json")
    assert status == 1
    assert json.loads(out)["refusal"] in err
    assert json.loads(out)["ranked"] == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("choose --memory 8GB", 'memory "8GB" is no quantity; write it as Kubernetes does: "8Gi"'),
        ("choose --cpu -1", 'CPU "-1" must be more than 0'),
        ("choose --gpu -1", "--gpu -1: a number of GPUs is needed"),
        ("choose --tee sgx", 'machine_type: tee "sgx" is none of them; allowed: none | sev | snp | tdx'),
        ("choose --max-price 0", "is no price"),
        ("choose --type 'a;tee=snp' --tee snp", "says tee= twice"),
    ],
)
def test_a_slip_of_the_pen_is_told_before_the_cloud_is_asked(
    run: Run, cloud: Account, line: str, complaint: str
) -> None:
    status, _, err = run(line)
    assert status == 1
    assert complaint in err
    assert not cloud.calls


# -- quota ----------------------------------------------------------------------------------------


def test_quota_shows_what_is_free_and_what_is_not_known(run: Run, cloud: Account) -> None:
    _, out, _ = run("quota")
    assert rows(out)[1] == ["Running On-Demand Standard instances", "vCPU", "64", "10", "54", "m6a.large, c6a.xlarge"]
    assert rows(out)[2][3:5] == ["unknown", "unknown"]
    _, out, _ = run("quota --json")
    limit = json.loads(out)["limits"][1]
    assert (limit["limit"], limit["used"], limit["free"], limit["instance_types"]) == (8, None, None, ["g6.xlarge"])


def test_a_cloud_that_does_not_tell_its_limits_is_said_to(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_provider(*_: Any) -> Provider:
        return Cloud(RealClock())

    monkeypatch.setattr(daemon, "open_provider", open_provider)
    status, _, err = run("quota")
    assert status == 1
    assert "the memory provider cannot tell the account's limits" in err


def test_instances_alone_says_what_may_follow(run: Run) -> None:
    with pytest.raises(SystemExit) as caught:
        run("")
    assert caught.value.code == 2


# -- the page -------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(.*?)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def commands() -> list[str]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].removeprefix("peerpods instances ").strip() for line in lines if line.strip()]


@pytest.mark.parametrize("line", commands())
def test_every_command_on_the_page_works(run: Run, cloud: Account, line: str) -> None:
    status, out, _ = run(line)
    assert status == 0
    assert out


def test_the_pages_output_is_what_is_printed(run: Run, cloud: Account) -> None:
    printed = [run(line)[1].strip() for line in commands()]
    shown = [block.strip() for block in blocks("")]
    assert shown
    for block in shown:
        assert block in printed


def test_the_pages_price_file_is_accepted(tmp_path: Path) -> None:
    (text,) = blocks("toml prices.toml")
    (tmp_path / "prices.toml").write_text(text)
    faults: list[Any] = []
    assert len(config_prices.read(str(tmp_path / "prices.toml"), "x", faults).entries) == text.count('" = ')
    assert not faults


def test_the_page_knows_how_long_a_refusal_is_remembered() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    told = {row[0].removeprefix("| "): row[-1].removesuffix(" |") for row in rows}
    assert told["Capacity"] == f"{CAPACITY_TTL / 60:g} minutes"
    assert told["Quota"] == f"{QUOTA_TTL:g} seconds"
    assert told["Unsupported"] == f"{UNSUPPORTED_TTL / 3600:g} hours"


def test_every_annotation_on_the_page_is_one(run: Run) -> None:
    import tomllib

    from adaptor.catalog import wishes
    from adaptor.config import Selection
    from providers.settings import settings_of

    for text in re.findall(r"machine_type: \"(.*?)\"", PAGE.read_text()):
        wishes.parse(text)
    said = dict(re.findall(r"^ +(peerpods\.io/[a-z-]+): \"(.*?)\"$", PAGE.read_text(), re.MULTILINE))
    assert wishes.from_annotations(said)
    for key in wishes.KEYS:
        assert f"`{key}`" in PAGE.read_text()
    told = {key for block in blocks("toml") for key in tomllib.loads(block).get("selection", {})}
    assert told <= {field.name for field, _ in settings_of(Selection)}
