"""What differs between the clouds that the demo's world can stand on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Stage:
    """`api` is what `peerpods simcloud --cloud` plays, empty without; `types` completes the provider's settings."""

    api: str
    title: str
    create: str  # the call that makes a VM, as people know it
    delete: str
    types: Mapping[str, Any]  # the first is for pods without wishes


STAGES: Final[Mapping[str, Stage]] = {
    "aws": Stage(
        "ec2",
        "EC2",
        "EC2 RunInstances",
        "EC2 TerminateInstances",
        {"instance_type": "m6a.large", "instance_types": ["m6a.large", "m6a.xlarge"]},
    ),
    "azure": Stage(
        "arm",
        "Azure",
        "ARM PUT virtualMachines",
        "ARM DELETE virtualMachines",
        {"instance_type": "Standard_DC2as_v5", "instance_types": ["Standard_DC2as_v5", "Standard_DC4as_v5"]},
    ),
    "gcp": Stage(
        "gce",
        "Compute Engine",
        "GCE instances.insert",
        "GCE instances.delete",
        {"machine_type": "n2d-standard-2", "machine_types": ["n2d-standard-2", "n2d-standard-4"]},
    ),
}
# No cloud is simulated for it.
LOCAL: Final = Stage(
    "",
    "this machine",
    "VM starts",
    "VM ends",
    {"instance_type": "local.small", "instance_types": ["local.medium"]},
)
