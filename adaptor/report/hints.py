"""What to do about a pod that does not run, told by how far it came. Pure."""

from adaptor.report.model import Subject


def next_steps(subject: Subject) -> list[str]:
    """Sentences, the first thing to do first; none where all is well."""
    known, kinds = subject.peerpod, {each.kind for each in subject.moments}
    pod = subject.title
    if known.phase == "running":
        return []
    if not known.name and not subject.moments and not known.phase:
        return [
            f"the pod's events, above, say how its last attempt ended; `peerpods console {pod}` has what its VM printed",
            f"`peerpods logs {pod}` has what the adaptor on its node did",
        ]
    if known.phase == "kept":
        return [
            "kubelet gave up waiting and tries the pod again; that attempt goes on with this VM",
            f"if no attempt succeeds: `peerpods trace {pod}` shows what takes so long",
        ]
    if known.phase in ("created", "starting"):
        return _waiting(pod, kinds)
    if not known.reason and known.phase != "failed":
        return []
    if "bound" in kinds:
        return [
            f"the VM ended, or could not be reached any more: `peerpods console {pod}` has its last words",
            "the pod's controller makes another; a bare pod must be made anew",
        ]
    return _never_ran(pod, kinds)


def _waiting(pod: str, kinds: set[str]) -> list[str]:
    if "launch-accepted" in kinds or "adopted" in kinds:
        return [f"its VM boots: `peerpods trace {pod}` shows since when, `peerpods console {pod}` what it prints"]
    if "launch-intended" in kinds:
        return [f"the cloud has not answered the create call yet: `peerpods logs {pod}`"]
    if "start-requested" in kinds:
        return [f"it waits for a machine: `peerpods logs {pod}`, and limits.creates_at_once where many pods start"]
    return ["kata's shim has not called StartVM: look at the pod's events and at containerd's log"]


def _never_ran(pod: str, kinds: set[str]) -> list[str]:
    if not kinds & {"launch-accepted", "adopted"}:
        return [
            "no VM was made; the reason is the cloud's or the choice's",
            "`peerpods check --cloud` on the node tries credentials, permissions, image, network and quotas",
            "`peerpods instances list` shows what pods may get; `peerpods instances quota` what the account may have",
        ]
    if "reached" not in kinds:
        return [
            f"a VM was made and its guest never answered: `peerpods console {pod}` shows how far it booted",
            "if it booted well and did not end, the network is in the way: TCP guest.port (15150) from the worker to the VM",
            "`peerpods check --cloud` on the node looks at the security groups and firewalls it can see",
            "if it prints nothing at all, the image does not boot on this machine type or with this TEE",
        ]
    return [
        "the guest answered and could not be made the pod's: the reason names it",
        "pod VM image and adaptor may be of versions that do not fit; `peerpods console` has the guest's side",
    ]
