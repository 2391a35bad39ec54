"""What this host can launch (pure)."""

from providers.base import Headroom, Offering
from providers.local.config import LocalConfig, size
from providers.local.requests import Intent, machine


def offerings(config: LocalConfig, architecture: str) -> tuple[Offering, ...]:
    """Each configured type once, with the TEE that every VM here gets; the default first."""
    found = []
    for name in config.allowed_types:
        vcpus, mib = size(name) or (0, 0)
        found.append(Offering(name, vcpus, mib, architecture=architecture, tee=config.tee, price=0.0))
    return tuple(found)


def headroom(config: LocalConfig, taken: list[Intent]) -> tuple[Headroom, ...]:
    """Our own limits."""
    types = config.allowed_types
    limits = [Headroom("local.machines_limit", config.machines_limit, len(taken), "VM", types)]
    if config.memory_limit_mib is not None:
        used = sum(machine(each)[1] for each in taken)
        limits.append(Headroom("local.memory_limit_mib", config.memory_limit_mib, used, "MiB", types))
    return tuple(limits)
