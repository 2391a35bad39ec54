"""`python -m adaptor.demo.cni FILE`: a pod's network namespace as a CNI plugin leaves it, mounted on FILE.

A process of its own, because it leaves its network namespace for good.
"""

import ctypes
import subprocess
import sys
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_ADDRESS: Final = "10.244.1.4"
_GATEWAY: Final = "10.244.1.1"


def main(path: str) -> None:
    """Raises OSError, CalledProcessError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    from pyroute2 import IPRoute

    with IPRoute() as ip:
        ip.link("set", index=1, state="up")
        ip.link("add", ifname="eth0", kind="veth", peer={"ifname": "cni0"})
        index = ip.link_lookup(ifname="eth0")[0]
        ip.link("set", index=index, mtu=1450, state="up")
        ip.link("set", index=ip.link_lookup(ifname="cni0")[0], state="up")
        ip.addr("add", index=index, address=_ADDRESS, prefixlen=24)
        ip.route("add", dst="default", gateway=_GATEWAY)
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", path], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
