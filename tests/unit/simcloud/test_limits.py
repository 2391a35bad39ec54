"""How many calls EC2 takes, and what it says to one too many."""

import random

import pytest

from providers.simcloud.buckets import Bucket, Rate
from providers.simcloud.ec2.limits import Limits
from providers.simcloud.options import Delay, Options, delay
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client, refused


def admitted(action: str, form: dict[str, str] | None = None, *, factor: float | None = 1.0, at: float = 0.0) -> int:
    """How many calls pass in one moment, of at most 2000."""
    limits = Limits(factor)
    return sum(limits.admits(action, form or {}, at) for _ in range(2000))


def test_a_bucket_starts_full_and_refills_up_to_its_burst() -> None:
    bucket = Bucket(Rate(burst=2, refill=1), now=0)
    for now, holds in ((0, True), (0, True), (0, False), (0.9, False), (1.0, True), (1.0, False), (99, True)):
        assert bucket.holds(1, now) is holds
        if holds:
            bucket.take(1, now)
    bucket.take(1, 99)
    assert not bucket.holds(1, 99)


def test_a_wish_beyond_the_burst_is_met_by_a_full_bucket_and_paid_for_afterwards() -> None:
    bucket = Bucket(Rate(burst=10, refill=1), now=0)
    assert bucket.holds(25, 0)
    bucket.take(25, 0)
    assert not bucket.holds(1, 15)
    assert bucket.holds(1, 16)


@pytest.mark.parametrize(
    ("action", "form", "burst"),
    [
        ("RunInstances", {"MaxCount": "1"}, 5),
        ("TerminateInstances", {"InstanceId.1": "i-1"}, 100),
        ("StartInstances", {"InstanceId.1": "i-1"}, 5),
        ("StopInstances", {"InstanceId.1": "i-1"}, 50),
        ("CreateTags", {}, 100),
        ("CreateVolume", {}, 50),
        ("DescribeInstances", {}, 50),
        ("DescribeInstances", {"Filter.1.Name": "instance-id"}, 100),
        ("DescribeInstances", {"InstanceId.1": "i-1"}, 100),
        ("DescribeInstances", {"MaxResults": "5"}, 100),
        ("DescribeSubnets", {}, 100),
        ("GetConsoleOutput", {}, 100),
    ],
)
def test_each_action_has_the_burst_that_amazon_documents(action: str, form: dict[str, str], burst: int) -> None:
    assert admitted(action, form) == burst


def test_calls_come_back_at_the_documented_rate() -> None:
    limits = Limits(1.0)
    passed = sum(limits.admits("RunInstances", {"MaxCount": "1"}, tick / 10) for tick in range(100))
    assert passed == 5 + 19  # the burst, and two a second for 9.9 seconds


def test_instances_have_a_bucket_besides_calls() -> None:
    limits = Limits(1.0)
    assert limits.admits("RunInstances", {"MaxCount": "1000"}, 0)
    assert not limits.admits("RunInstances", {"MaxCount": "1"}, 0)
    assert limits.admits("RunInstances", {"MaxCount": "1"}, 1)


def test_actions_do_not_use_up_each_others_calls() -> None:
    limits = Limits(1.0)
    assert [limits.admits("RunInstances", {}, 0) for _ in range(6)][-1] is False
    assert limits.admits("StartInstances", {"InstanceId.1": "i-1"}, 0)


def test_a_factor_scales_the_limits_and_none_lifts_them() -> None:
    assert admitted("RunInstances", factor=10) == 50
    assert admitted("RunInstances", factor=0.01) == 1
    assert admitted("RunInstances", factor=None) == 2000


def test_a_call_too_many_is_refused_as_by_ec2() -> None:
    with running_in_thread(rate_limits=1.0) as cloud, client(cloud) as ec2:
        account = Account(cloud, ec2)
        for _ in range(5):
            account.launch()
        with refused("RequestLimitExceeded", "Request limit exceeded.", status=503):
            for _ in range(20):  # faster than two a second
                account.launch()
        assert account.ids()


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("8s", Delay(8)),
        ("8s±3s", Delay(8, 3)),
        ("8s+-3s", Delay(8, 3)),
        ("250ms", Delay(0.25)),
        ("1m30s ± 1s", Delay(90, 1)),
        ("2", Delay(2)),
        (0.5, Delay(0.5)),
        (Delay(1, 1), Delay(1, 1)),
    ],
)
def test_a_delay_is_written_as_people_write_it(text: str | float | Delay, made: Delay) -> None:
    assert delay(text) == made


@pytest.mark.parametrize("text", ["soon", "8s±", "-1s", "8 seconds", ""])
def test_what_is_no_delay_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="8s±3s"):
        delay(text)


def test_drawn_delays_stay_in_their_spread_and_above_zero() -> None:
    rng = random.Random(1)
    drawn = [Delay(1, 2).draw(rng) for _ in range(500)]
    assert min(drawn) == 0.0
    assert 2.5 < max(drawn) <= 3.0
    assert str(Delay(8, 3)) == "8s±3s"


@pytest.mark.parametrize(
    "wrong",
    [{"instances": "docker"}, {"token_after_termination": "maybe"}, {"rate_limits": 0.0}, {"boot_delay": "soon"}],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Options.of(**wrong)
