"""Security groups' rules, read for whether workers get in."""

from typing import Any

import pytest

from providers.aws.reachability import Worker, findings
from providers.base import Finding, Grade

SUBNETS = ["10.0.1.0/24"]
HERE = Worker("10.0.9.7", ("sg-worker",))
NOBODY = Worker()


def rule(protocol: str = "tcp", low: int = 15150, high: int = 15150, **sources: Any) -> dict[str, Any]:
    ports = {} if protocol == "-1" else {"FromPort": low, "ToPort": high}
    return {"IpProtocol": protocol, **ports, **sources}


def from_range(*ranges: str) -> dict[str, Any]:
    return {"IpRanges": [{"CidrIp": each} for each in ranges]}


def from_group(name: str) -> dict[str, Any]:
    return {"UserIdGroupPairs": [{"GroupId": name}]}


def judged(*rules: dict[str, Any], worker: Worker = HERE, wanted: tuple[str, int] = ("tcp", 15150)) -> Finding:
    (found,) = findings([{"GroupId": "sg-pods", "IpPermissions": list(rules)}], SUBNETS, [wanted], worker)
    assert "sg-pods" in found.subject
    assert bool(found.fix) == (found.grade is not Grade.OK)
    return found


@pytest.mark.parametrize(
    ("given", "worker", "grade"),
    [
        (rule(**from_group("sg-worker")), HERE, Grade.OK),
        (rule(**from_range("10.0.0.0/16")), HERE, Grade.OK),
        (rule("-1", **from_range("10.0.0.0/16")), HERE, Grade.OK),
        (rule("6", 0, 65535, **from_range("10.0.9.7/32")), HERE, Grade.OK),
        (rule(**from_range("192.168.0.0/16")), HERE, Grade.FAULT),
        (rule(**from_group("sg-others")), HERE, Grade.FAULT),
        (rule(**from_range("0.0.0.0/0")), HERE, Grade.WARNING),
        (rule(Ipv6Ranges=[{"CidrIpv6": "::/0"}]), HERE, Grade.WARNING),
        (rule(low=80, high=443, **from_range("10.0.0.0/16")), HERE, Grade.FAULT),
        (rule("udp", **from_range("10.0.0.0/16")), HERE, Grade.FAULT),
        (rule(**from_range("10.0.0.0/16")), NOBODY, Grade.OK),
        (rule(**from_range("192.168.0.0/16")), NOBODY, Grade.WARNING),
        (rule(**from_group("sg-pods")), NOBODY, Grade.WARNING),
        (rule(PrefixListIds=[{"PrefixListId": "pl-1"}]), NOBODY, Grade.WARNING),
        (rule(), NOBODY, Grade.FAULT),
    ],
)
def test_a_rule_is_judged_by_port_protocol_and_where_the_worker_is(
    given: dict[str, Any], worker: Worker, grade: Grade
) -> None:
    assert judged(given, worker=worker).grade is grade


def test_no_rule_at_all_is_a_fault_whose_fix_can_be_pasted() -> None:
    found = judged(wanted=("udp", 4789))
    assert found.grade is Grade.FAULT
    assert "UDP 4789" in found.message
    assert "authorize-security-group-ingress --group-id sg-pods --protocol udp --port 4789" in found.fix


def test_the_rules_of_all_groups_count_together() -> None:
    groups = [
        {"GroupId": "sg-1", "IpPermissions": [rule(**from_range("10.0.0.0/16"))]},
        {"GroupId": "sg-2", "IpPermissions": [rule("udp", 4789, 4789, **from_range("10.0.0.0/16"))]},
    ]
    found = list(findings(groups, SUBNETS, [("tcp", 15150), ("udp", 4789)], HERE))
    assert [each.grade for each in found] == [Grade.OK, Grade.OK]
