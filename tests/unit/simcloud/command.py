"""The `peerpods simcloud` command as a process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from providers.simcloud.cloud import Simcloud
from tests.unit.simcloud.ec2_client import Account, client

REPOSITORY = Path(__file__).parents[3]
COMMAND = (sys.executable, "-m", "adaptor", "simcloud")


class Told(Simcloud):
    """A cloud in another process, as far as its introduction tells."""

    def __init__(self, text: str) -> None:
        words = text.split()

        def after(word: str) -> str:
            return words[words.index(word) + 1]

        self.text = text
        self.endpoint_url, self.region = after("at"), after("EC2's")
        self.subnet, self.security_group, self.ami = after("subnet"), after("group"), after("ami")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error"}


@contextmanager
def commanded(*arguments: str, log: Path) -> Iterator[tuple["subprocess.Popen[str]", Account]]:
    """A cloud of its own process, its stderr in `log`; killed at the end if it still runs."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment(), cwd=log.parent
        )
    try:
        with client(cloud := Told(introduction(process, log))) as ec2:
            yield process, Account(cloud, ec2)
    finally:
        process.kill()
        process.communicate()


def introduction(process: "subprocess.Popen[str]", log: Path) -> str:
    """Everything up to the last line of it."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Ctrl-C"):
            return "".join(lines)
    raise AssertionError("".join(lines) + log.read_text())
