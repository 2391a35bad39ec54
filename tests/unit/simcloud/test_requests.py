"""What EC2 demands of a request as such, whoever sends it; and what an answer looks like on the wire."""

import re
import urllib.error
import urllib.parse
import urllib.request

import pytest

from providers.simcloud.options import SimcloudError
from providers.simcloud.testing import running_in_thread
from tests.unit.simcloud.ec2_client import Account, client, refused

SIGNATURE = (
    "AWS4-HMAC-SHA256 Credential=AKIA/20260101/us-east-1/ec2/aws4_request,SignedHeaders=host;x-amz-date,Signature="
    + "0" * 64
)
SIGNED = {"Authorization": SIGNATURE, "X-Amz-Date": "20260101T000000Z"}
RIGHT = {"Action": "DescribeRegions", "Version": "2016-11-15"}


def send(account: Account, form: dict[str, str], headers: dict[str, str], *, get: bool = False) -> tuple[int, str]:
    """Status, and the error code; empty for none."""
    query = urllib.parse.urlencode(form)
    url, body = (f"/?{query}", None) if get else ("/", query.encode())
    request = urllib.request.Request(account.cloud.endpoint_url + url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode().partition("<Code>")[2].partition("</Code>")[0]
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    assert re.search(r"<RequestID>[0-9a-f-]{36}</RequestID>", text), text
    return status, text.partition("<Code>")[2].partition("</Code>")[0]


@pytest.mark.parametrize("get", [False, True])
def test_a_signed_request_is_answered(account: Account, get: bool) -> None:
    assert send(account, RIGHT, SIGNED, get=get) == (200, "")


@pytest.mark.parametrize(
    ("form", "headers", "status", "code"),
    [
        (RIGHT, {}, 401, "AuthFailure"),
        (RIGHT, {**SIGNED, "Authorization": "Bearer me"}, 401, "AuthFailure"),
        (RIGHT, {"Authorization": SIGNATURE}, 401, "AuthFailure"),
        (RIGHT, {**SIGNED, "Authorization": SIGNATURE.replace("us-east-1", "us-east-2")}, 401, "AuthFailure"),
        (RIGHT, {**SIGNED, "Authorization": SIGNATURE.replace("/ec2/", "/s3/")}, 401, "AuthFailure"),
        ({**RIGHT, "Action": "Explode"}, SIGNED, 400, "InvalidAction"),
        ({"Version": "2016-11-15"}, SIGNED, 400, "InvalidAction"),
        ({**RIGHT, "Version": "2006-06-26"}, SIGNED, 400, "NoSuchVersion"),
        ({"Action": "DescribeRegions"}, SIGNED, 400, "NoSuchVersion"),
        ({**RIGHT, "Colour": "blue"}, SIGNED, 400, "UnknownParameter"),
        ({**RIGHT, "Action": "DescribeInstances", "Instances.1": "i-0"}, SIGNED, 400, "UnknownParameter"),
        ({**RIGHT, "Action": "RunInstances"}, SIGNED, 400, "MissingParameter"),
        ({**RIGHT, "Action": "TerminateInstances"}, SIGNED, 400, "MissingParameter"),
        ({**RIGHT, "Action": "DescribeFleetHistory"}, SIGNED, 400, "InvalidParameterValue"),
    ],
)
def test_a_request_that_is_not_ec2s_is_refused(
    account: Account, form: dict[str, str], headers: dict[str, str], status: int, code: str
) -> None:
    assert send(account, form, headers) == (status, code)


def test_a_client_of_another_region_is_told_which_one_this_is(account: Account) -> None:
    with client(account.cloud, region_name="eu-west-1") as ec2, refused("AuthFailure", "us-east-1", status=401):
        ec2.describe_instances()


def test_another_region_has_its_own_zones() -> None:
    with running_in_thread(region="eu-west-1") as cloud, client(cloud) as ec2:
        assert Account(cloud, ec2).run()["Placement"]["AvailabilityZone"] == "eu-west-1a"


def test_a_region_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SimcloudError, match="no region 'mars-1'"), running_in_thread(region="mars-1"):
        pass
