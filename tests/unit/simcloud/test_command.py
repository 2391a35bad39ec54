"""`peerpods simcloud`, as people use it."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from adaptor.config import load
from tests.unit.simcloud.command import COMMAND, REPOSITORY, commanded, environment
from tests.unit.simcloud.ec2_client import refused


def ask(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_it_introduces_itself_with_all_that_is_needed_to_launch(tmp_path: Path) -> None:
    with commanded(log=tmp_path / "log") as (_, account):
        assert account.launch()


def test_its_settings_for_peerpods_are_settings_of_peerpods(tmp_path: Path) -> None:
    with commanded(log=tmp_path / "log") as (_, account):
        text = account.cloud.text  # type: ignore[attr-defined]
        table = text.partition("in its configuration:")[2].partition("Ctrl-C")[0]
        (tmp_path / "peerpods.toml").write_text("\n".join(map(str.strip, table.splitlines())))
        config = load(str(tmp_path / "peerpods.toml"), {})
        assert config.cloud.provider == "aws"


def test_its_options_reach_the_cloud(tmp_path: Path) -> None:
    options = ("--region", "eu-west-1", "--boot-delay", "60s", "--fault", "next action=RunInstances error=No")
    with commanded(*options, log=tmp_path / "log") as (_, account):
        assert account.cloud.region == "eu-west-1"
        with refused("No"):
            account.launch()
        assert account.state(account.launch()) == "pending"
        with refused("RequestLimitExceeded", status=503):
            for _ in range(20):
                account.launch()


def test_print_env_prints_nothing_else_on_stdout(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--print-env"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        cwd=REPOSITORY,
    )  # fmt: skip
    assert process.stderr is not None
    told = "".join(iter(process.stderr.readline, "Ctrl-C ends it, and every instance with it.\n"))
    process.terminate()
    stdout, _ = process.communicate(timeout=20)
    exported = dict(shlex.split(line)[1].split("=", 1) for line in stdout.splitlines())
    assert exported["AWS_ENDPOINT_URL"] in told
    assert {"AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(exported)


def test_verbose_logs_a_line_per_call_and_no_user_data(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with commanded("--verbose", log=log) as (_, account):
        instance = account.launch(UserData="do-not-tell")
        account.becomes(instance, "running")
        with refused("InvalidAMIID.NotFound"):
            account.launch(ImageId="ami-00000000")
    lines = log.read_text()
    assert f"{instance} is running" in lines
    assert "RunInstances 200" in lines
    assert "RunInstances 400 InvalidAMIID.NotFound" in lines
    assert "do-not-tell" not in lines


def test_a_fault_can_be_sent_to_a_cloud_that_runs(tmp_path: Path) -> None:
    with commanded(log=tmp_path / "log") as (_, account):
        url = account.cloud.endpoint_url
        answer = ask("fault", url, "next", "action=RunInstances", "error=No", "message=not today")
        assert json.loads(answer.stdout)["next"][0]["message"] == "not today"
        assert ask("fault", url, "boot fate=dies times=2").returncode == 0
        with refused("No", "not today"):
            account.launch()
        wrong = ask("fault", url, "explode")
        assert (wrong.returncode, "there is no fault 'explode'" in wrong.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "here"), "HOST:PORT"),
        (("--boot-delay", "soon"), "8s±3s"),
        (("--rate-limits", "some"), "some"),
        (("--fault", "explode"), "there is no fault"),
        (("fault", "http://127.0.0.1:1", "clear"), "no simcloud answers"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(arguments: tuple[str, ...], words: str) -> None:
    answer = ask(*arguments)
    assert (answer.returncode, words in answer.stderr, "Traceback" in answer.stderr) == (1, True, False), answer.stderr


def test_a_port_that_is_taken_is_said_in_a_line(tmp_path: Path) -> None:
    with commanded(log=tmp_path / "log") as (_, account):
        answer = ask("--listen", account.cloud.endpoint_url.removeprefix("http://"))
        assert (answer.returncode, "cannot listen on 127.0.0.1" in answer.stderr) == (1, True)


def test_help_shows_every_fault_and_loads_no_cloud() -> None:
    answer = ask("--help")
    assert answer.returncode == 0
    for verb in ("next", "capacity", "quota", "boot", "kill", "cut", "clear"):
        assert f"\n  {verb} " in answer.stdout
    loaded = subprocess.run(
        [COMMAND[0], "-X", "importtime", *COMMAND[1:], "--help"],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True, timeout=60,
    ).stderr  # fmt: skip
    assert not any(f" {heavy}" in loaded for heavy in ("moto", "aiohttp", "pyroute2", "boto"))
