"""Whether this host could launch pod VMs: `peerpods check --cloud`. Nothing is made or changed. Blocking."""

import os
from collections.abc import Callable
from typing import Final

from providers.base import Finding, Grade, Tee
from providers.errors import Denied
from providers.local import hosts, links, sandbox, vm
from providers.local.config import LocalConfig
from providers.local.errors import Refused
from providers.local.requests import size_of

_OUTBOUND: Final = "/proc/sys/net/ipv4/ip_forward"


def run(config: LocalConfig, look: Callable[[], str]) -> list[Finding]:
    """`look`: Machines.look_at_host."""
    found = [_programs(config, look), _state_dir(config)]
    if not config.isolated:
        return [Finding("isolation", Grade.WARNING, sandbox.WARNING, 'local.vmm = "qemu"'), *found]
    return [*found, _image(config), _kvm(config), *_network(config), _room(config)]


def _programs(config: LocalConfig, look: Callable[[], str]) -> Finding:
    subject = "QEMU" if config.isolated else "namespaces"
    try:
        accel = look()
    except Refused as error:
        if error.kind is Denied:
            return Finding("permission to start machines", Grade.FAULT, str(error), "run it as root")
        return Finding(subject, Grade.FAULT, str(error), "install or correct what it names")
    except OSError as error:
        return Finding(subject, Grade.FAULT, f"cannot be looked at: {error}", "correct what it names")
    if accel == "namespace":
        return Finding(subject, Grade.OK, "can be made")
    host = hosts.find(config)
    return Finding(subject, Grade.OK, f"{host.qemu}, version {host.version[0]}.{host.version[1]}, boot = {config.boot}")


def _image(config: LocalConfig) -> Finding:
    try:
        image = vm.read_image(config.image or "")
    except Refused as error:
        return Finding(f"image {config.image}", Grade.FAULT, str(error), "peerpods image build")
    if image.development_agent:
        return Finding(
            f"image {config.image}",
            Grade.WARNING,
            "carries the development agent, which is no kata-agent",
            "build it with the real agents for anything but trying out",
        )
    return Finding(f"image {config.image}", Grade.OK, f"is there, for {image.architecture}")


def _kvm(config: LocalConfig) -> Finding:
    trouble = hosts.kvm_trouble()
    if not trouble:
        return Finding("KVM", Grade.OK, "can be used")
    demanded = config.accel == "kvm" or config.tee is not Tee.NONE
    if config.accel == "tcg":
        return Finding("KVM", Grade.OK, "is not used: local.accel is tcg")
    return Finding(
        "KVM",
        Grade.FAULT if demanded else Grade.WARNING,
        f"cannot be used: {trouble}" + ("" if demanded else "; TCG emulates instead, many times slower"),
        "run on a machine with hardware virtualisation, with read and write access to /dev/kvm",
    )


def _network(config: LocalConfig) -> list[Finding]:
    able = links.may_make() and os.path.exists("/dev/net/tun")
    if config.network == "user" or (config.network == "auto" and not able):
        return [
            Finding(
                "network",
                Grade.WARNING,
                "QEMU's own (user): pods' networks pass only where network.encryption is required",
                'network.encryption = "required", or CAP_NET_ADMIN and /dev/net/tun for network = "tap"',
            )
        ]
    if not able:
        return [Finding("network", Grade.FAULT, "taps cannot be made here", "CAP_NET_ADMIN and /dev/net/tun")]
    found = [Finding("network", Grade.OK, f"taps on {config.bridge}, {config.subnet}")]
    if config.outbound and not _forwards():
        found.append(
            Finding(
                "outbound",
                Grade.WARNING,
                f"this host forwards no packets, so VMs of {config.subnet} reach nobody else",
                f"sysctl net.ipv4.ip_forward=1, and masquerade {config.subnet} (docs/local.md)",
            )
        )
    return found


def _forwards() -> bool:
    try:
        with open(_OUTBOUND) as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def _state_dir(config: LocalConfig) -> Finding:
    subject = f"permission to write {config.state_dir}"
    place = config.state_dir
    while not os.path.exists(place):
        place = os.path.dirname(place)
    if os.access(place, os.W_OK | os.X_OK) and os.path.isdir(place):
        return Finding(subject, Grade.OK, "is given")
    return Finding(subject, Grade.FAULT, f"{place} cannot be written", "run as its owner, or set local.state_dir")


def _room(config: LocalConfig) -> Finding:
    available = hosts.available_mib()
    _, wanted = size_of(config.instance_type)
    if wanted <= available:
        return Finding("memory", Grade.OK, f"{available} MiB available; {config.instance_type} takes {wanted}")
    return Finding(
        "memory",
        Grade.FAULT,
        f"{available} MiB are available, and {config.instance_type} takes {wanted}",
        "a smaller local.instance_type",
    )
