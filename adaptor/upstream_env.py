"""Environment names of upstream's adaptor that mean nothing here, and what to say to whoever still sets them.

Names we honour are aliases beside their settings in `config`; a cloud's own are its provider's business.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_OFF: Final = frozenset({"", "0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Unused:
    """A name, what to tell, and the values at which there is nothing to tell."""

    name: str
    why: str
    harmless: frozenset[str] = frozenset({""})


# What upstream does with these is deliberately not on offer: starting without it would be another trust or another
# network than the one asked for, so it is a fault.
REFUSED: Final = (
    Unused("DISABLE_TLS", "the tunnel to a pod VM is never plain: it carries the pod's secrets", _OFF),
    Unused("TLS_SKIP_VERIFY", "a pod VM is always verified: anybody on the network could answer in its place", _OFF),
    Unused("TUNNEL_TYPE", "vxlan is the only tunnel there is", frozenset({"", "vxlan"})),
    Unused(
        "ENABLE_CLOUD_PROVIDER_EXTERNAL_PLUGIN",
        "Go plug-ins cannot be loaded here; a third-party cloud is a Python package with a peerpods.providers entry point",
        _OFF,
    ),
)

# The rest works without these, perhaps not quite as before: that is worth a warning at each start.
IGNORED: Final = (
    Unused("PAUSE_IMAGE", "the pause image is the one inside the pod VM image"),
    Unused("CACERT_FILE", "certificates of your own are not supported yet; the node makes its own authority"),
    Unused("CERT_FILE", "certificates of your own are not supported yet; the node makes its own authority"),
    Unused("CERT_KEY", "certificates of your own are not supported yet; the node makes its own authority"),
    Unused("TLS_MIN_VERSION", "the tunnel speaks TLS 1.3 with our own pod VM images", frozenset({"", "1.3"})),
    Unused("TLS_CIPHER_SUITES", "cipher suites are not chosen: TLS 1.3 has no weak ones"),
    Unused("CLOUD_CONFIG_VERIFY", "the cloud's settings are verified at every start", _OFF),
    Unused("POD_UID", "sockets are handed over without it"),
    Unused("CLOUD_PROVIDER_EXTERNAL_PLUGIN_PATH", "Go plug-ins cannot be loaded here"),
    Unused("CLOUD_PROVIDER_EXTERNAL_PLUGIN_HASH", "Go plug-ins cannot be loaded here"),
)


def told(names: tuple[Unused, ...], env: Mapping[str, str]) -> list[Unused]:
    """Those of `names` that `env` sets to something."""
    return [unused for unused in names if env.get(unused.name, "").strip().lower() not in unused.harmless]
