"""The cloud's own page of a VM, built from ids and settings alone. Pure."""

import re
from typing import Any
from urllib.parse import quote

# As the clouds' zones begin: us-east-1a, us-west-2-lax-1a, us-gov-west-1b, cn-north-1a.
_AWS_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d+")


def vm(cloud: str, instance_id: str, zone: str, settings: Any = None) -> str:
    """A URL; empty where ids and `settings`, the cloud's own, do not suffice, and for a simulated cloud."""
    endpoint = str(getattr(settings, "endpoint_url", "") or "")
    if not instance_id or endpoint.startswith("http:"):
        return ""
    make = {"aws": _aws, "azure": _azure, "gcp": _gcp}.get(cloud)
    return make(instance_id, zone, settings, endpoint) if make else ""


def _aws(instance_id: str, zone: str, settings: Any, endpoint: str) -> str:
    found = _AWS_REGION.match(zone)
    region = found[0] if found else str(getattr(settings, "region", "") or "")
    if not region:
        return ""
    host = "console.aws.amazon.com"
    if region.startswith("cn-"):
        host = "console.amazonaws.cn"
    elif region.startswith("us-gov-"):
        host = "console.amazonaws-us-gov.com"
    return f"https://{region}.{host}/ec2/home?region={region}#InstanceDetails:instanceId={quote(instance_id, safe='')}"


def _azure(instance_id: str, zone: str, settings: Any, endpoint: str) -> str:
    group = str(getattr(settings, "group_id", "") or "")
    if not group:
        return ""
    host = "portal.azure.com"
    if "usgovcloudapi" in endpoint:
        host = "portal.azure.us"
    elif "chinacloudapi" in endpoint:
        host = "portal.azure.cn"
    path = quote(f"{group}/providers/Microsoft.Compute/virtualMachines/{instance_id}")
    return f"https://{host}/#resource{path}/overview"


def _gcp(instance_id: str, zone: str, settings: Any, endpoint: str) -> str:
    project = str(getattr(settings, "project", "") or "")
    where, slash, name = instance_id.partition("/")
    if not project or not slash:
        return ""
    path = f"zones/{quote(where)}/instances/{quote(name)}"
    return f"https://console.cloud.google.com/compute/instancesDetail/{path}?project={quote(project)}"
