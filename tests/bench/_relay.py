"""What an agent call costs through the tunnel, beside programs that do nothing but tunnel."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench._chains import Chain, Haproxy, Ours, Papers, Stunnel
from tests.bench._load import Figures, Load, Missing

_BASE = Stunnel.name


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of call, and what ours may cost in stunnel's: CPU per call, and median latency."""

    name: str
    what: str
    size: int
    connections: int
    cpu_target: float | None
    p50_target: float | None

    @property
    def bulk(self) -> bool:
        return self.size > 1000


def rows(connections: Sequence[int]) -> list[Row]:
    small = [Row("small call", "read", 100, n, 1.4 if n == 1 else 0.75, 1.3 if n == 1 else None) for n in connections]
    return [*small, Row("CopyFile", "copy", 1 << 20, 1, 1.1, None), Row("ReadStdout", "read", 32 << 10, 1, None, None)]


def run(seconds: float, rounds: int, connections: Sequence[int]) -> None:
    """Print the table; raises Missing."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        load = Load(directory)
        stack.callback(load.close)
        papers = Papers(directory)
        chains = [_started(Ours, directory, papers, load), _started(Stunnel, directory, papers, load)]
        try:
            chains.append(_started(Haproxy, directory, papers, load))
        except Missing as error:
            print(f"without haproxy: {error}")
        for chain in chains:
            stack.callback(chain.close)
        print(
            f"medians of {rounds} interleaved rounds of {seconds:g} s; CPU is of both sides; x = median ratio to stunnel\n"
        )
        print(f"{'':24}{'':10}{'p50 µs':>9}{'p99 µs':>9}{'calls/s':>9}{'MB/s':>8}{'CPU':>22}{'x CPU':>7}{'x p50':>7}")
        for row in rows(connections):
            seen: dict[str, list[Figures]] = {chain.name: [] for chain in chains}
            for _ in range(rounds):
                for chain in chains:
                    seen[chain.name].append(_measure(chain, row, load, seconds))
            _print(row, seen)


def _started(kind: Callable[[Path, Papers, str], Chain], directory: Path, papers: Papers, load: Load) -> Chain:
    return kind(directory, papers, load.echo_path)


def _measure(chain: Chain, row: Row, load: Load, seconds: float) -> Figures:
    pattern = chain.open(row.connections)
    try:
        return load.call(pattern, row.connections, seconds, row.what, row.size, chain.pids)
    finally:
        chain.shut()


def _print(row: Row, seen: dict[str, list[Figures]]) -> None:
    title = f"{row.name} {_size(row.size)} x{row.connections}"
    for name, figures in seen.items():
        calls = median(f.calls / f.seconds for f in figures)
        per_call = median(f.cpu / f.calls for f in figures)
        cpu = f"{per_call / row.size * 1e9:.2f} s per GB" if row.bulk else f"{per_call * 1e5:.2f} s per 100k calls"
        ratios = [
            median(of(mine) / of(base) for mine, base in zip(figures, seen[_BASE], strict=True))
            for of in (_cpu_per_call, _p50)
        ]
        print(
            f"{title:24}{name:10}{median(f.p50_us for f in figures):9.1f}{median(f.p99_us for f in figures):9.1f}"
            f"{calls:9.0f}{calls * row.size / 1e6:8.1f}{cpu:>22}{ratios[0]:7.2f}{ratios[1]:7.2f}"
        )
        if name == Ours.name:
            verdicts = [
                f"    target: {what} at most {target} of stunnel's: {'met' if ratio <= target else 'MISSED'}"
                for what, target, ratio in zip(("CPU", "p50"), (row.cpu_target, row.p50_target), ratios, strict=True)
                if target is not None
            ]
            title = ""
    print("\n".join(verdicts) + "\n")


def _cpu_per_call(figures: Figures) -> float:
    return figures.cpu / figures.calls


def _p50(figures: Figures) -> float:
    return figures.p50_us


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB" if size >= 1 << 10 else f"{size} B"
