"""The `peerpods` command as a person meets it: real processes, their output and exit status."""

import os
import resource
import signal
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import pytest

import adaptor
from adaptor.cli import parser
from adaptor.errors import Unavailable

COMMAND = [sys.executable, "-m", "adaptor"]


def peerpods(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60)


def verbs() -> list[str]:
    assert parser.build()._subparsers is not None
    return list(next(iter(parser.build()._subparsers._group_actions)).choices or {})  # type: ignore[union-attr]


def test_help_has_one_line_for_each_command() -> None:
    text = peerpods("--help").stdout
    for verb in verbs():
        assert sum(line.startswith(f"    {verb} ") for line in text.splitlines()) == 1, verb


@pytest.mark.parametrize("verb", verbs())
def test_each_command_explains_itself(verb: str) -> None:
    answer = peerpods(verb, "--help")
    assert answer.returncode == 0
    assert answer.stdout.startswith(f"usage: peerpods {verb}")


def test_version_is_the_packages() -> None:
    assert peerpods("--version").stdout == f"peerpods {adaptor.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "usage: peerpods"), (["fly"], "invalid choice: 'fly'"), (["check", "--cnfig=x"], "--cnfig")],
)
def test_arguments_that_make_no_sense_end_with_status_2(arguments: list[str], said: str) -> None:
    answer = peerpods(*arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert said in answer.stderr


def test_help_takes_under_150_ms_of_processor_time() -> None:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    times = []
    for _ in range(5):  # the best of some: other processes' noise only ever adds
        before = spent()
        peerpods("--help")
        times.append(spent() - before)
    assert min(times) < 0.150


def test_declaring_the_commands_imports_nothing_heavy() -> None:
    program = "import sys; from adaptor.cli import parser; parser.build(); print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )
    heavy = {"asyncio", "ssl", "prometheus_client", "cryptography", "boto3", "aiohttp", "rich", "adaptor.config"}
    assert loaded & heavy == set()


def test_a_wrong_configuration_ends_the_adaptor_with_status_2_and_no_trace(tmp_path: Path) -> None:
    answer = peerpods("adaptor", "--config", str(tmp_path / "missing.toml"))
    assert answer.returncode == 2
    assert answer.stderr.startswith("peerpods: 1 setting is wrong") or "settings are wrong" in answer.stderr
    assert "cannot be read: No such file or directory" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_an_error_of_ours_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Namespace) -> None:
        raise Unavailable("the relay does not answer; is it running?")

    broken = ArgumentParser()
    broken.set_defaults(run=refuse)
    monkeypatch.setattr(parser, "build", lambda: broken)
    assert parser.main([]) == 1
    assert capsys.readouterr().err == "peerpods: the relay does not answer; is it running?\n"


def test_an_interrupt_is_quiet_and_has_a_shells_status(tmp_path: Path) -> None:
    fifo = tmp_path / "config.toml"
    os.mkfifo(fifo)
    # What a shell starts in its background ignores SIGINT, and so would everything below it.
    command = ["env", "--default-signal=INT", *COMMAND, "check", "--config", str(fifo)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        writer = os.open(fifo, os.O_WRONLY)  # returns when the command has opened it to read
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        os.close(writer)
    assert (process.returncode, out, err) == (130, "", "")


@pytest.mark.parametrize("verb", ["config", "check"])  # more and less than the buffer of a pipe's writer
def test_a_reader_that_leaves_early_causes_no_complaint(verb: str) -> None:
    env = os.environ | {"CLOUD_PROVIDER": "aws", "PODVM_AMI_ID": "ami-0123456789abcdef0", "PYTHONUNBUFFERED": ""}
    with subprocess.Popen(
        [*COMMAND, verb], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == ""
