"""The services beside EC2 that a provider asks: STS who it is, the price list, Service Quotas.

They share EC2's port here; the signature says which one is meant. Their answers are as small as those who ask need.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final
from uuid import uuid4

from moto.ec2.models.instance_types import INSTANCE_TYPES

from providers.simcloud.ec2 import catalog, prices
from providers.simcloud.ec2.account import ACCOUNT_ID, Account
from providers.simcloud.ec2.errors import Refused
from providers.simcloud.exchange import Answer, Call
from providers.simcloud.faults import Faults

USER: Final = f"arn:aws:iam::{ACCOUNT_ID}:user/simcloud"
_PRICING: Final = "AWSPriceListService"
_QUOTAS: Final = "ServiceQuotasV20190624"
_PAGE: Final = 100
_JSON: Final = "application/x-amz-json-1.1"
_PLENTY: Final = 10_000.0  # vCPUs: what simcloud grants where no quota is set

# Code and name of the limits on running vCPUs.
_LIMITS: Final = {
    "L-1216C47A": "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
    "L-34B43A08": "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
    "L-DB2E81BA": "Running On-Demand G and VT instances",
    "L-3819A6DF": "All G and VT Spot Instance Requests",
    "L-417A185B": "Running On-Demand P instances",
    "L-7212CCBC": "All P4, P3 and P2 Spot Instance Requests",
}
_UNCHANGED: Final = ("L-417A185B", "L-7212CCBC")  # which this account never had changed: only their defaults are listed


def target(headers: Mapping[str, str]) -> str:
    """The action of a call in JSON; empty for one that is none."""
    service, _, action = headers.get("X-Amz-Target", "").partition(".")
    return action if service in (_PRICING, _QUOTAS) else ""


def perform(service: str, call: Call, account: Account, faults: Faults) -> Answer:
    """Raises Refused for an action that is not played."""
    if service == "sts" and call.action == "GetCallerIdentity":
        return _identity()
    acts: dict[tuple[str, str], Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        ("pricing", "GetProducts"): lambda asked: _products(asked, account.region_name),
        ("servicequotas", "GetServiceQuota"): lambda asked: _quota(asked, faults, default=False),
        ("servicequotas", "GetAWSDefaultServiceQuota"): lambda asked: _quota(asked, faults, default=True),
    }
    act = acts.get((service, call.action))
    if act is None:
        raise Refused("InvalidAction", f"simcloud does not play {call.action} of {service}")
    return _answer(act(json.loads(call.body or b"{}")))


def refusal(code: str, message: str) -> Answer:
    """As services that speak JSON refuse."""
    body = json.dumps({"__type": code, "message": message}).encode()
    return Answer(400, body, _JSON, {"x-amzn-requestid": str(uuid4())}, code)


def _answer(content: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps(content).encode(), _JSON, {"x-amzn-requestid": str(uuid4())})


def _identity() -> Answer:
    body = (
        '<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>'
        f"<Arn>{USER}</Arn><UserId>AIDASIMCLOUD</UserId><Account>{ACCOUNT_ID}</Account></GetCallerIdentityResult>"
        f"<ResponseMetadata><RequestId>{uuid4()}</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
    return Answer(200, body.encode(), "text/xml")


def _products(asked: Mapping[str, Any], home: str) -> dict[str, Any]:
    if asked.get("ServiceCode") != "AmazonEC2":
        raise Refused("NotFoundException", f"simcloud knows no prices of {asked.get('ServiceCode')}")
    found = []
    for name, kind in INSTANCE_TYPES.items():
        for tenancy, factor in (("Shared", 1.0), ("Dedicated", 1.06)):
            attributes = {
                "instanceType": name,
                "regionCode": home,
                "operatingSystem": "Linux",
                "tenancy": tenancy,
                "preInstalledSw": "NA",
                "capacitystatus": "Used",
                "licenseModel": "No License required",
            }
            if name in catalog.zones_of(home) and all(_matches(each, attributes) for each in asked.get("Filters", [])):
                found.append(_product(attributes, prices.on_demand(kind) * factor))
    start = int(asked.get("NextToken") or 0)
    more = {"NextToken": str(start + _PAGE)} if len(found) > start + _PAGE else {}
    return {"FormatVersion": "aws_v1", "PriceList": found[start : start + _PAGE], **more}


def _matches(asked: Mapping[str, str], attributes: Mapping[str, str]) -> bool:
    value, wanted = attributes.get(asked["Field"]), asked["Value"]
    match asked["Type"]:
        case "TERM_MATCH" | "EQUALS":
            return value == wanted
        case "ANY_OF":
            return value in wanted.split(",")
    raise Refused("InvalidParameterException", f"simcloud does not play the filter type {asked['Type']}")


def _product(attributes: Mapping[str, str], price: float) -> str:
    sku = f"SIM{attributes['instanceType'].replace('.', '').upper()}{attributes['tenancy'][:2].upper()}"
    dimension = {"unit": "Hrs", "beginRange": "0", "endRange": "Inf", "pricePerUnit": {"USD": f"{price:.10f}"}}
    terms = {"OnDemand": {f"{sku}.JRTCKXETXF": {"priceDimensions": {f"{sku}.JRTCKXETXF.6YS6EN2CT7": dimension}}}}
    product = {"productFamily": "Compute Instance", "attributes": dict(attributes), "sku": sku}
    return json.dumps({"product": product, "serviceCode": "AmazonEC2", "terms": terms})


def _quota(asked: Mapping[str, Any], faults: Faults, *, default: bool) -> dict[str, Any]:
    code = asked.get("QuotaCode", "")
    if asked.get("ServiceCode") != "ec2" or code not in _LIMITS or (code in _UNCHANGED and not default):
        raise Refused(
            "NoSuchResourceException", f"The request failed because the specified quota {code} does not exist"
        )
    value = float(faults.vcpus) if faults.vcpus is not None else _PLENTY
    return {"Quota": {"ServiceCode": "ec2", "QuotaCode": code, "QuotaName": _LIMITS[code], "Value": value}}
