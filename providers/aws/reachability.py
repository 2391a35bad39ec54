"""Whether security groups let workers reach a pod VM, judged by their rules (pure)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from providers.base import Finding, Grade

Rule = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Worker:
    """What is known of where calls to pod VMs come from; empty: nothing."""

    address: str = ""
    groups: tuple[str, ...] = ()


def findings(
    groups: Sequence[Mapping[str, Any]],
    subnets: Sequence[str],
    wanted: Sequence[tuple[str, int]],
    worker: Worker,
) -> Iterator[Finding]:
    """One for each protocol and port of `wanted`; `subnets` are the pod VMs' ranges, in which workers may live too."""
    names = ", ".join(each["GroupId"] for each in groups)
    rules = [rule for group in groups for rule in group.get("IpPermissions", [])]
    for protocol, port in wanted:
        what = f"{protocol.upper()} {port}"
        letting = [rule for rule in rules if _covers(rule, protocol, port)]
        sources = sorted({source for rule in letting for source in _sources(rule)})
        fix = (
            f"let {what} in from the workers: aws ec2 authorize-security-group-ingress --group-id"
            f" {groups[0]['GroupId'] if groups else 'sg-...'} --protocol {protocol} --port {port} --source-group"
            " <the workers' group>"
        )
        yield _judged(f"security group {names}", what, sources, subnets, worker, fix)


def _judged(
    subject: str, what: str, sources: Sequence[str], subnets: Sequence[str], worker: Worker, fix: str
) -> Finding:
    if not sources:
        return Finding(subject, Grade.FAULT, f"no rule lets {what} in: pod VMs could not be reached", fix)
    told = ", ".join(sources)
    if any(each in ("0.0.0.0/0", "::/0") for each in sources):
        return Finding(subject, Grade.WARNING, f"{what} is let in from everywhere ({told})", f"narrow it: {fix}")
    if any(_is_worker(each, worker) for each in sources):
        return Finding(subject, Grade.OK, f"{what} is let in from this worker ({told})")
    if worker.address or worker.groups:
        who = worker.address or ", ".join(worker.groups)
        return Finding(subject, Grade.FAULT, f"{what} is let in from {told} only, and this worker is {who}", fix)
    if any(_contains(each, subnet) for each in sources for subnet in subnets):
        return Finding(subject, Grade.OK, f"{what} is let in from the pod VMs' whole network ({told})")
    return Finding(
        subject,
        Grade.WARNING,
        f"{what} is let in from {told}; whether workers are there is not known here",
        f"run this on a worker, or make sure of it; else {fix}",
    )


def _covers(rule: Rule, protocol: str, port: int) -> bool:
    if rule.get("IpProtocol") == "-1":
        return True
    number = {"tcp": "6", "udp": "17"}[protocol]
    return rule.get("IpProtocol") in (protocol, number) and rule.get("FromPort", -1) <= port <= rule.get("ToPort", -1)


def _sources(rule: Rule) -> Iterator[str]:
    yield from (each["CidrIp"] for each in rule.get("IpRanges", []))
    yield from (each["CidrIpv6"] for each in rule.get("Ipv6Ranges", []))
    yield from (each["GroupId"] for each in rule.get("UserIdGroupPairs", []) if "GroupId" in each)
    yield from (each["PrefixListId"] for each in rule.get("PrefixListIds", []))


def _is_worker(source: str, worker: Worker) -> bool:
    if source in worker.groups:
        return True
    return bool(worker.address and "/" in source and ip_address(worker.address) in ip_network(source, strict=False))


def _contains(source: str, subnet: str) -> bool:
    if "/" not in source:
        return False
    wide, narrow = ip_network(source, strict=False), ip_network(subnet, strict=False)
    return wide.version == narrow.version and narrow.subnet_of(wide)  # type: ignore[arg-type]
