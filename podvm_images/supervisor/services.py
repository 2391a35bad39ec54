"""The programs that PID 1 keeps going, what each waits for, and when one that ended is started again; pure.

    guest ─ at once                                       bound ─ Bind's last file, written by the guest
    attestation-agent ─ bound ─► its socket ─► confidential-data-hub ─► its socket ─► kata-agent ─► api-server-rest

The agent looks for the data hub once, when it starts; each of them for what it needs. Without a kata-agent the image
has the development agent, which the guest starts itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from adaptor import names

PYTHON: Final = ("/usr/bin/python3.13", "-S", "-m")
PACKAGES: Final = "/usr/lib/podvm"
SLOTS: Final = "/usr/local/bin"  # where an image has the real components
CONFIGURATION: Final = "/etc/podvm"  # what the image brings for a pod that brings nothing
DEBUG: Final = f"{CONFIGURATION}/debug"  # exists in debug images
BOUND: Final = f"{names.GUEST_RUN_DIR}/bound"
AA_SOCKET: Final = "/run/confidential-containers/attestation-agent/attestation-agent.sock"
SCRATCH_MARKER: Final = f"{names.GUEST_RUN_DIR}/scratch-space.marker"
SCRATCH_READY: Final = "/run/podvm/scratch"
ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/sbin:/usr/bin",
    "PYTHONPATH": PACKAGES,
    "PYTHONSAFEPATH": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "LANG": "C.UTF-8",
}

# Seconds between a program's end and its next start: twice as long with every end, as long as it ends sooner than STEADY.
FIRST_PAUSE, LONGEST_PAUSE, STEADY = 0.5, 30.0, 60.0

Exists = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Service:
    """`command` is asked when all of `needs` exist. `netns`: the network namespace that it runs in."""

    name: str
    command: Callable[[Exists], tuple[str, ...]]
    needs: Sequence[str] = ()
    environment: Callable[[Exists], dict[str, str]] = lambda exists: {}
    netns: str = ""
    said: bool = True  # what it prints may go to the console: it says nothing of the pod's


def table(exists: Exists) -> list[Service]:
    """What this image runs, in the order of their starts."""
    real = exists(f"{SLOTS}/kata-agent")
    services = [Service("guest", lambda now: (*PYTHON, "podvm_images.guest", *_guest_options(real)))]
    if exists(f"{SLOTS}/attestation-agent"):
        services.append(Service("attestation-agent", _attestation_agent, (BOUND,), said=False))
    if exists(f"{SLOTS}/confidential-data-hub"):
        before = (AA_SOCKET,) if exists(f"{SLOTS}/attestation-agent") else ()
        services.append(
            Service("confidential-data-hub", _data_hub, (BOUND, *before), _data_hub_environment, said=False)
        )
    if real:
        before = (names.CDH_SOCKET,) if exists(f"{SLOTS}/confidential-data-hub") else ()
        services.append(Service("kata-agent", _agent, (BOUND, *before), _agent_environment, said=False))
    if exists(f"{SLOTS}/api-server-rest"):
        needs = (BOUND, names.CDH_SOCKET, names.POD_NETNS)
        rest = (f"{SLOTS}/api-server-rest", "--features", "all")
        services.append(Service("api-server-rest", lambda now: rest, needs, netns=names.POD_NETNS, said=False))
    return services


def ready(service: Service, exists: Exists) -> bool:
    """Whether it may start now. The agent's images go to the scratch space, where one was asked for."""
    if service.name == "kata-agent" and exists(SCRATCH_MARKER) and not exists(SCRATCH_READY):
        return False
    return all(map(exists, service.needs))


def pause(before: float, ran: float) -> float:
    """Seconds until the next start of what ran for `ran` seconds; `before` was its last pause, 0 at first."""
    if ran >= STEADY or before <= 0:
        return FIRST_PAUSE
    return min(2 * before, LONGEST_PAUSE)


def loudly(exists: Exists) -> list[str]:
    """What whoever reads the console must not overlook."""
    told = []
    if not exists(f"{SLOTS}/kata-agent"):
        told.append(
            "A DEVELOPMENT IMAGE: THE STAND-IN FOR KATA-AGENT SERVES HERE. IT EVALUATES NO POLICY BUT FOR EXEC."
        )
    if not exists(f"{SLOTS}/attestation-agent"):
        told.append("THIS IMAGE HAS NO ATTESTATION AGENT: NOTHING PROVES TO ANYBODY WHAT RUNS HERE.")
    return told


def measured_or_own(name: str, exists: Exists) -> str:
    """The file out of initdata, which is measured, or the image's own, which is measured with the image."""
    measured = f"{names.GUEST_RUN_DIR}/{name}"
    return measured if exists(measured) else f"{CONFIGURATION}/{name}"


def _guest_options(real: bool) -> tuple[str, ...]:
    if real:
        return ("--agent", "external")
    return ("--agent", "development", "--agent-policy", f"{CONFIGURATION}/policy.rego")


def _attestation_agent(exists: Exists) -> tuple[str, ...]:
    return (f"{SLOTS}/attestation-agent", "-c", measured_or_own("aa.toml", exists))


def _data_hub(exists: Exists) -> tuple[str, ...]:
    return (f"{SLOTS}/confidential-data-hub", "-c", measured_or_own("cdh.toml", exists))


def _data_hub_environment(exists: Exists) -> dict[str, str]:
    """The variable outranks initdata's own entry, as in upstream's image: set only where Bind brought credentials."""
    found = {"OCICRYPT_KEYPROVIDER_CONFIG": f"{CONFIGURATION}/ocicrypt.json"}
    credentials = f"{names.GUEST_RUN_DIR}/auth.json"
    if exists(credentials):
        found["CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS"] = f"file://{credentials}"
    return found


def _agent(exists: Exists) -> tuple[str, ...]:
    """Behind `conceal`, which leaves it no disk to look for a second, unmeasured initdata on."""
    agent = (f"{SLOTS}/kata-agent", "--config", f"{CONFIGURATION}/agent.toml")
    return (*PYTHON, "podvm_images.supervisor.conceal", *agent)


def _agent_environment(exists: Exists) -> dict[str, str]:
    return {
        "KATA_AGENT_POLICY_FILE": measured_or_own("policy.rego", exists),
        "OCICRYPT_KEYPROVIDER_CONFIG": f"{CONFIGURATION}/ocicrypt.json",
    }
