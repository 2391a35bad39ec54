"""What the choice of a machine costs out of a catalog of a thousand offerings, alone and within the start of a pod.

Beside it: the same questions answered by a plain filter and sort, written down here, in the same run; and the same start
with one offering to choose from. Cloud and relay are in memory and answer at once, the journal is a real one on disk.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Final

from adaptor import names
from adaptor.catalog import explain, wishes
from adaptor.catalog.chooser import Chooser
from adaptor.catalog.select import Catalog, Requirements
from adaptor.clock import RealClock
from adaptor.errors import StartFailed
from adaptor.hypervisor import Hypervisor
from adaptor.pki import NodePki
from adaptor.protos import hypervisor_pb2 as pb
from adaptor.sandbox.fair import FairGate
from adaptor.sandbox.journal import Journal
from adaptor.sandbox.registry import Registry
from adaptor.sandbox.rooms import GuestSettings, Rooms
from adaptor.sandbox.watch import InstanceWatch
from adaptor.telemetry import logs
from adaptor.volumes.node import NodeVolumes
from providers.base import Instance, LaunchSpec, Offering, Ownership, Purchase, Tee
from providers.errors import Capacity, Denied
from tests.bench._report import Target, load, quantile
from tests.worlds.cloud import Cloud
from tests.worlds.networks import Networks
from tests.worlds.relay import Relay

_TARGET: Final = 2.0  # milliseconds for a choice

_ZONES: Final = ("region-1a", "region-1b", "region-1c")
_MS: Final = 1000.0
_TURNS: Final = 5

# (what, the machine_type text, vCPU, MiB, GPUs)
QUESTIONS: Final = (
    ("no wishes", "", None, None, None),
    ("4 vCPU, 8 GiB", "", 4, 8192, None),
    ("memory only", "", None, 60_000, None),
    ("a type by name", "m6a.4xlarge", 2, 4096, None),
    ("wildcards", "m6*.*,c7a.*;zone=region-1b", 8, None, None),
    ("all wishes", ";tee=snp;spot=preferred;zone=region-1a,region-1b;max-price=3;family=m6a,r7a", 16, 65536, None),
    ("a GPU", ";gpu-model=L4;tee=none", None, None, 1),
    ("nothing fits", "", 9999, 8192, None),
)


def offerings(count: int) -> tuple[Offering, ...]:
    """As a large region's: families by sizes, zones, ways to pay and TEE; one price in twelve is not known."""
    found: list[Offering] = []
    for generation in "678":
        for family, gib in (("m", 4), ("c", 2), ("r", 8), ("g", 4)):
            for step in range(8):
                vcpus = 2 << step
                for zone in _ZONES:
                    for purchase in Purchase:
                        for tee in (Tee.SNP, Tee.NONE):
                            price = vcpus * (0.03 + gib * 0.004) * (1 if purchase is Purchase.ON_DEMAND else 0.4)
                            found.append(
                                Offering(
                                    f"{family}{generation}a.{'large' if not step else f'{1 << step}xlarge'}",
                                    vcpus,
                                    vcpus * gib * 1024,
                                    gpus=vcpus // 8 if family == "g" else 0,
                                    gpu_model="L4" if family == "g" and vcpus >= 8 else "",
                                    tee=tee,
                                    zone=zone,
                                    purchase=purchase,
                                    price=None if len(found) % 12 == 5 else price,
                                )
                            )
    assert len(found) >= count
    return tuple(found[:count])


def plain(catalog: Sequence[Offering], wanted: Requirements) -> list[Offering]:
    """What anybody would write first: compare every offering, sort the rest by price. Enough for sizes and zones."""
    fitting = [
        each
        for each in catalog
        if each.vcpus >= (wanted.vcpus or 0)
        and each.memory_mib >= (wanted.memory_mib or 0)
        and each.gpus >= (wanted.gpus or 0)
        and each.tee is (wanted.tee or catalog[0].tee)
        and (not wanted.zones or each.zone in wanted.zones)
        and each.purchase is Purchase.ON_DEMAND
    ]
    unknown = float("inf")
    return sorted(fitting, key=lambda o: (unknown if o.price is None else o.price, o.gpus, o.memory_mib, o.vcpus))


def run(count: int, rounds: int, pods: int) -> list[Target]:
    """Print both tables."""
    print(f"a catalog of {count} offerings; {load()}\n")
    slowest = _choices(offerings(count), rounds)
    print()
    many, few = list[float](), list[float]()
    for _ in range(_TURNS):  # in turns: a disk has its moods
        many += _starts(offerings(count), pods // _TURNS)
        few += _starts(offerings(1), pods // _TURNS)
    print(f"{len(many)} pods one after the other, CreateVM and StartVM until the provider is asked to create (ms)")
    print(f"  {'':34}{'p50':>9}{'p99':>9}")
    for what, seen in ((f"{count} offerings", many), ("1 offering", few)):
        print(f"  {what:34}{quantile(seen, 0.5):9.3f}{quantile(seen, 0.99):9.3f}")
    return [
        Target(f"choice out of {count}, the slowest question, median", slowest[0], _TARGET, "ms"),
        Target(f"choice out of {count}, the slowest question, p99", slowest[1], _TARGET, "ms"),
        Target(f"admission to create: what {count} offerings add", median(many) - median(few), _TARGET, "ms"),
    ]


def _choices(catalog: tuple[Offering, ...], rounds: int) -> tuple[float, float]:
    """The slowest question's median and p99, in milliseconds."""
    fresh = [_timed(lambda: Catalog(catalog)) for _ in range(20)]
    print(f"sorting the catalog, once for as long as the cloud offers the same: {median(fresh):.2f} ms\n")
    chooser, drill = Chooser(), Chooser()
    for each in catalog[::2]:
        drill.mark(each, Capacity("none left"), 0.0)
    print(f"{rounds} rounds (ms of CPU)")
    print(f"  {'':18}{'fit':>6}{'p50':>9}{'p99':>9}{'half marked, p50':>18}{'plain, p50':>12}")
    slowest = 0.0, 0.0
    for what, text, vcpus, memory, gpus in QUESTIONS:
        wanted = wishes.parse(text).requirements(vcpus, memory, gpus)
        ours, marked, baseline = list[float](), list[float](), list[float]()
        for _ in range(rounds):
            ours.append(_timed(lambda: chooser.choose(catalog, wanted, 0.0)))  # noqa: B023
            marked.append(_timed(lambda: drill.choose(catalog, wanted, 0.0)))  # noqa: B023
            baseline.append(_timed(lambda: plain(catalog, wanted)))  # noqa: B023
        fit = len(chooser.choose(catalog, wanted, 0.0).ranked)
        p50, p99 = quantile(ours, 0.5), quantile(ours, 0.99)
        print(f"  {what:18}{fit:6}{p50:9.3f}{p99:9.3f}{quantile(marked, 0.5):18.3f}{quantile(baseline, 0.5):12.3f}")
        slowest = max(slowest[0], p50, quantile(marked, 0.5)), max(slowest[1], p99, quantile(marked, 0.99))
    nothing = Requirements(vcpus=9999)
    choice = chooser.choose(catalog, nothing, 0.0)
    text_ms = median(_timed(lambda: explain.refusal(choice, nothing)) for _ in range(20))
    print(f"  the text of a refusal, when there is one: {text_ms:.2f} ms")
    return slowest


def _timed(work: Callable[[], object]) -> float:
    """Milliseconds of this thread's CPU: other programs' turns are not ours."""
    began = time.thread_time()
    work()
    return (time.thread_time() - began) * _MS


class _Stopwatch(Cloud):
    """Notes when it is asked to create, and does not: what comes behind is not measured."""

    asked_at = 0.0

    async def create(self, spec: LaunchSpec, token: str) -> Instance:
        self.asked_at = time.perf_counter()
        raise Denied("the bench has seen enough")


def _starts(catalog: tuple[Offering, ...], pods: int) -> list[float]:
    """Milliseconds from CreateVM's arrival until the provider's create; StartVM comes as soon as CreateVM is answered."""
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        return asyncio.run(_start(catalog, pods, Path(directory)))


async def _start(catalog: tuple[Offering, ...], pods: int, directory: Path) -> list[float]:
    logs.setup("text", "error")  # every one of these starts fails, as it should
    clock = RealClock()
    cloud = _Stopwatch(clock)
    cloud.offered, cloud.call_seconds = catalog, 0.0
    journal = await Journal.open(directory / names.JOURNAL, clock)
    rooms = Rooms(
        owner=Ownership("bench", "node"),
        provider=cloud,
        relay=Relay(cloud, clock),
        journal=journal,
        pki=NodePki.load(directory / "pki"),
        networks=Networks(),
        watch=InstanceWatch(cloud, clock),
        clock=clock,
        guest=GuestSettings(flavor="own", port=names.GUEST_PORT, start_timeout=60.0),
        pods_dir=str(directory / "pods"),
        creates=FairGate(16),
    )
    registry = Registry(rooms)
    service, call = Hypervisor(registry, Networks(), NodeVolumes("/nowhere", "/nowhere")), None
    seen: list[float] = []
    try:
        for number in range(pods):
            gc.collect()  # of the last pod's, not within this one's time
            sandbox = f"{number:064}"
            annotations = {names.DEFAULT_VCPUS: "2", names.DEFAULT_MEMORY: "8192", names.CRI_SANDBOX_NAME: "web"}
            request = pb.CreateVMRequest(id=sandbox, annotations=annotations, network_namespace_path="/run/netns/x")
            began = time.perf_counter()
            await service.create_vm(request, call)  # type: ignore[arg-type]
            with suppress(StartFailed):
                await service.start_vm(pb.StartVMRequest(id=sandbox), call)  # type: ignore[arg-type]
            seen.append((cloud.asked_at - began) * _MS)
    finally:
        await registry.aclose()
        await rooms.watch.aclose()
        await journal.aclose()
    return seen
