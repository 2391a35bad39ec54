"""What an agent call costs through the tunnel, beside programs that do nothing but tunnel."""

import os
import ssl
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench._chains import Chain, Haproxy, Ours, Papers, Stunnel
from tests.bench._load import Figures, Load, Missing
from tests.bench._report import Target

_BASE = Stunnel.name
_COLUMNS = f"{'p50 µs':>9}{'p99 µs':>9}{'calls/s':>9}{'MB/s':>8}{'CPU':>24}{'x CPU (min-max)':>20}{'x p50':>7}"


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of call, and what ours may cost in stunnel's: CPU per call, and median latency."""

    name: str
    what: str
    size: int
    connections: int
    cpu_target: float | None = None
    p50_target: float | None = None

    @property
    def title(self) -> str:
        return f"{self.name} x{self.connections}"

    def cost(self, per_call: float) -> str:
        """Bulk is about bytes, everything else about calls."""
        if self.size < 1 << 10:
            return f"{per_call * 1e5:.2f} s per 100k calls"
        return f"{per_call / self.size * 1e9:.2f} s per GB"


def rows(connections: Sequence[int]) -> list[Row]:
    small = [Row("small call", "read", 100, n, *((1.4, 1.3) if n == 1 else (0.75,))) for n in connections]
    return [*small, Row("CopyFile 1 MiB", "copy", 1 << 20, 1, 1.1), Row("ReadStdout 32 KiB", "read", 32 << 10, 1)]


def run(seconds: float, rounds: int, connections: Sequence[int]) -> list[Target]:
    """Print the table; raises Missing."""
    targets: list[Target] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        load = Load(directory)
        stack.callback(load.close)
        chains = _chains(directory, load)
        for chain in chains:
            stack.callback(chain.close)
        print(
            f"medians of {rounds} interleaved rounds of {seconds:g} s on {os.cpu_count()} cores, {ssl.OPENSSL_VERSION}"
        )
        print(
            "CPU: of both sides; x: to stunnel in the same round, its median and extremes (far apart: a noisy machine)\n"
        )
        print(f"{'':22}{'':10}{_COLUMNS}")
        for row in rows(connections):
            seen: dict[str, list[Figures]] = {chain.name: [] for chain in chains}
            for _ in range(rounds):
                for chain in chains:
                    seen[chain.name].append(_measure(chain, row, load, seconds))
            busy = os.getloadavg()[0]
            print("\n".join([*_lines(row, seen), f"{'':22}load of the machine: {busy:.1f}", ""]))
            targets += _targets(row, seen)
    return targets


def _chains(directory: Path, load: Load) -> list[Chain]:
    papers = Papers(directory)
    chains: list[Chain] = [Ours(directory, papers, load.echo_path), Stunnel(directory, papers, load.echo_path)]
    try:
        chains.append(Haproxy(directory, papers, load.echo_path))
    except Missing as error:
        print(f"without haproxy: {error}")
    return chains


def _measure(chain: Chain, row: Row, load: Load, seconds: float) -> Figures:
    pattern = chain.open(row.connections)
    try:
        return load.call(pattern, row.connections, seconds, row.what, row.size, chain.pids)
    finally:
        chain.shut()


def _lines(row: Row, seen: dict[str, list[Figures]]) -> list[str]:
    lines: list[str] = []
    for name, figures in seen.items():
        calls = median(each.calls / each.seconds for each in figures)
        cpu, p50 = _ratios(figures, seen[_BASE])
        spread = f"{median(cpu):.2f} ({min(cpu):.2f}-{max(cpu):.2f})"
        lines.append(
            f"{row.title if not lines else '':22}{name:10}"
            f"{median(each.p50_us for each in figures):9.1f}{median(each.p99_us for each in figures):9.1f}"
            f"{calls:9.0f}{calls * row.size / 1e6:8.1f}{row.cost(median(each.cpu_per_call for each in figures)):>24}"
            f"{spread:>20}{median(p50):7.2f}"
        )
    return lines


def _targets(row: Row, seen: dict[str, list[Figures]]) -> list[Target]:
    found = zip(("CPU", "p50"), (row.cpu_target, row.p50_target), _ratios(seen[Ours.name], seen[_BASE]), strict=True)
    return [
        Target(f"relay, {row.title}: {what}", median(ratios), limit, "x stunnel's")
        for what, limit, ratios in found
        if limit is not None
    ]


def _ratios(figures: list[Figures], base: list[Figures]) -> tuple[list[float], list[float]]:
    pairs = list(zip(figures, base, strict=True))
    return [mine.cpu_per_call / its.cpu_per_call for mine, its in pairs], [
        mine.p50_us / its.p50_us for mine, its in pairs
    ]
