"""What the kernel has in the pod's namespace, in the words of `layout.wanted`."""

from typing import Any, Final

from podvm_images.guest import layout
from podvm_images.guest.rtnetlink import Link, Rtnetlink

# Devices that the kernel itself makes in every namespace where their modules are loaded. They are down, and stay so.
_KERNELS_OWN: Final = {
    "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0",
}  # fmt: skip


def outward(links: list[Link]) -> dict[int, Link]:
    """The devices besides loopback, by index."""
    return {link.index: link for link in links if not link.loopback and (link.up or link.name not in _KERNELS_OWN)}


def found(pod: Rtnetlink) -> dict[str, Any]:
    """What the namespace holds."""
    links = outward(pod.links())
    state: dict[str, Any] = {"interfaces": {link.name for link in links.values()}}
    for link in links.values():
        state[f"{link.name}'s tunnel"] = layout.tunnel_text(link.vxlan) if link.vxlan else f"a {link.kind or 'card'}"
        state[f"{link.name}'s MAC address"] = link.hardware_address
        state[f"{link.name}'s MTU"] = link.mtu
        state[f"{link.name}'s state"] = "up" if link.up else "down"
    told: dict[str, list[tuple[int, str]]] = {
        "addresses": [(index, layout.address_text(address)) for index, address in pod.addresses()],
        "routes": [(index, layout.route_text(route)) for index, route in pod.routes()],
        "neighbours": [(index, layout.neighbour_text(neighbour)) for index, neighbour in pod.neighbours()],
    }
    for what, texts in told.items():
        for index, link in links.items():
            state[f"{link.name}'s {what}"] = {text for at, text in texts if at == index}
    return state
