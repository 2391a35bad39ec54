"""Every string and number that crosses a process border: paths, ports, annotations, tags, protocol labels.

Other processes, clusters and clouds hold these; changing one is an interface change.
"""

from typing import Final

# -- worker node: the borders shared with upstream's adaptor (drop-in) ----------------------------
RUN_DIR: Final = "/run/peerpod"
HYPERVISOR_SOCKET: Final = f"{RUN_DIR}/hypervisor.sock"  # kata's default remote_hypervisor_socket
PODS_DIR: Final = f"{RUN_DIR}/pods"  # <pods>/<sandbox id>/agent.ttrpc
AGENT_SOCKET: Final = "agent.ttrpc"
RELAY_SOCKET: Final = f"{RUN_DIR}/relay.sock"
STATE_DIR: Final = "/var/lib/peerpods"  # journal and node CA: must survive a reboot
JOURNAL: Final = "journal.db"  # in STATE_DIR
CONFIG_FILE: Final = "/etc/peerpods/peerpods.toml"

# -- what the shim sends with CreateVM ------------------------------------------------------------
CRI_SANDBOX_NAME: Final = "io.kubernetes.cri.sandbox-name"
CRI_SANDBOX_NAMESPACE: Final = "io.kubernetes.cri.sandbox-namespace"
CRIO_SANDBOX_NAME: Final = "io.kubernetes.cri-o.SandboxName"  # k8s_POD_<pod>_<namespace>_<uid>_<attempt>
CRIO_SANDBOX_NAMESPACE: Final = "io.kubernetes.cri-o.Namespace"
_HYPERVISOR: Final = "io.katacontainers.config.hypervisor."
MACHINE_TYPE: Final = _HYPERVISOR + "machine_type"
IMAGE: Final = _HYPERVISOR + "image"
DEFAULT_VCPUS: Final = _HYPERVISOR + "default_vcpus"
DEFAULT_MEMORY: Final = _HYPERVISOR + "default_memory"  # MiB
DEFAULT_GPUS: Final = _HYPERVISOR + "default_gpus"
DEFAULT_GPU_MODEL: Final = _HYPERVISOR + "default_gpu_model"
INITDATA: Final = _HYPERVISOR + "cc_init_data"  # plain TOML: the shim has undone base64 and gzip
WISH_PREFIX: Final = "peerpods.io/"  # of a pod's annotations that become the machine_type one: catalog.wishes

# -- what the guest reads out of CreateContainer --------------------------------------------------
CDI_PEER_PODS: Final = "cdi.k8s.io/peer-pods"
CDI_ALL_GPUS: Final = "nvidia.com/gpu=all"

# -- services on the wire -------------------------------------------------------------------------
HYPERVISOR_SERVICE: Final = "hypervisor.Hypervisor"
AGENT_SERVICE: Final = "grpc.AgentService"
HEALTH_SERVICE: Final = "grpc.Health"
RELAY_SERVICE: Final = "peerpods.relay.Relay"
GUEST_SERVICE: Final = "peerpods.guest.Guest"

# -- worker to guest ------------------------------------------------------------------------------
GUEST_PORT: Final = 15150
GUEST_ALPN: Final = "peerpods/1"  # upstream's forwarder negotiates no ALPN: that is how it is recognised
GUEST_PROTOCOL: Final = 1
LAUNCH_PROOF_LABEL: Final = b"peerpods launch proof v1\0"
USER_DATA_LIMIT: Final = (
    4096  # bytes: the smallest user-data limit among clouds we know is 16 KiB; ours stays far below
)

# -- inside the pod VM ----------------------------------------------------------------------------
KATA_AGENT_SOCKET: Final = "/run/kata-containers/agent.sock"
CIDATA_USER_DATA: Final = "/media/cidata/user-data"
GUEST_RUN_DIR: Final = RUN_DIR  # aa.toml, cdh.toml, auth.json, initdata, initdata.digest, as upstream lays them out
POD_NETNS: Final = "/run/netns/podns"
UPSTREAM_APF: Final = f"{RUN_DIR}/apf.json"
