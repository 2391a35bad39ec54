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

# -- worker node: other programs' directories -----------------------------------------------------
DIRECT_VOLUMES_DIR: Final = "/run/kata-containers/shared/direct-volumes"  # <base64url of a path>/mountInfo.json
CONTAINERD_BUNDLES: Final = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"  # <sandbox id>/config.json

# -- what the shim sends with CreateVM ------------------------------------------------------------
CRI_SANDBOX_NAME: Final = "io.kubernetes.cri.sandbox-name"
CRI_SANDBOX_UID: Final = "io.kubernetes.cri.sandbox-uid"  # in containerd's bundles; kata's shim leaves it out
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
CLOUD_VOLUMES: Final = "io.confidentialcontainers.org.cloud_volumes"  # JSON; keys as upstream's interceptor reads them
VOLUME_TARGET_PATH: Final = "io.confidentialcontainers.org.peerpodvolumes.target_path"  # mount sources, by commas

# -- services on the wire -------------------------------------------------------------------------
HYPERVISOR_SERVICE: Final = "hypervisor.Hypervisor"
AGENT_SERVICE: Final = "grpc.AgentService"
HEALTH_SERVICE: Final = "grpc.Health"
RELAY_SERVICE: Final = "peerpods.relay.Relay"
GUEST_SERVICE: Final = "peerpods.guest.Guest"
SECURE_MOUNT_SERVICE: Final = "api.SecureMountService"  # the confidential data hub's

# -- worker to guest ------------------------------------------------------------------------------
GUEST_PORT: Final = 15150
GUEST_ALPN: Final = "peerpods/1"  # upstream's forwarder negotiates no ALPN: that is how it is recognised
GUEST_PROTOCOL: Final = 1
WIREGUARD_PORT: Final = 51820  # UDP, on the VM
LAUNCH_PROOF_LABEL: Final = b"peerpods launch proof v1\0"
USER_DATA_LIMIT: Final = (
    4096  # bytes: the smallest user-data limit among clouds we know is 16 KiB; ours stays far below
)

# -- the pod's tunnel, on the worker -----------------------------------------------------------------
TUNNEL_DEVICE: Final = "vxlan"  # and a number from 1: in the pod's namespace, as upstream calls it
WIREGUARD_DEVICE: Final = "ppwg0"  # one per worker, in its own namespace; and one per VM
NFT_TABLE: Final = "peerpods"  # family inet, on the worker and in the VM

# -- inside the pod VM ----------------------------------------------------------------------------
KATA_AGENT_SOCKET: Final = "/run/kata-containers/agent.sock"
CIDATA_USER_DATA: Final = "/media/cidata/user-data"
FW_CFG_USER_DATA: Final = (
    "/sys/firmware/qemu_fw_cfg/by_name/opt/podvm/user-data/raw"  # QEMU's -fw_cfg name=opt/podvm/user-data
)
GUEST_RUN_DIR: Final = RUN_DIR  # aa.toml, cdh.toml, auth.json, initdata, initdata.digest, as upstream lays them out
POD_NETNS: Final = "/run/netns/podns"
GUEST_VOLUMES_DIR: Final = "/run/cloud-volumes"  # <vol-N>: where a pod's disks are mounted
CDH_SOCKET: Final = "/run/confidential-containers/cdh.sock"
UPSTREAM_APF: Final = f"{RUN_DIR}/apf.json"

# -- Kubernetes -----------------------------------------------------------------------------------
VM_RESOURCE: Final = "kata.peerpods.io/vm"  # what the scheduler counts on nodes and pods
UPSTREAM_OWNER: Final = "kata.peerpods.io/caa-owner"  # on a node: the pod of upstream's adaptor that advertises it
DRAIN: Final = "kata.peerpods.io/drain"  # on a node, "true": no new pod VMs here
DEVICE_PLUGINS_DIR: Final = "/var/lib/kubelet/device-plugins"  # kubelet.sock, and the plugins' own
RUNTIME_CLASS: Final = "kata-remote"
PEERPOD_GROUP: Final = "confidentialcontainers.org"  # upstream's, with its version, kind and finalizer
PEERPOD_VERSION: Final = "v1alpha1"
PEERPOD_PLURAL: Final = "peerpods"
PEERPOD_FINALIZER: Final = "peer.pod/finalizer"
# Not under WISH_PREFIX, where every annotation is a wish of the pod's owner.
SIZED: Final = "kata.peerpods.io/size"  # on a pod that the webhook has sized: "vcpus=4,memory-mib=4096,gpus=1"
QUOTA: Final = "kata.peerpods.io/quota"  # scheduling gate, lifted by the controller; and a namespace's annotation: "pods=10,vcpus=40"
SANDBOX_LABEL: Final = "kata.peerpods.io/sandbox"  # on a PeerPod: the sandbox's id, its first 63 characters
NODE_LABEL: Final = "kata.peerpods.io/node"  # on a PeerPod: whose adaptor it belongs to
EVENT_SOURCE: Final = "peerpods"  # who reports the events on pods
LEASE: Final = "peerpods-controller"
SEEN_NODES: Final = (
    "kata.peerpods.io/nodes"  # annotation of the Lease: nodes whose VMs the controller may sweep, by commas
)
OFFERINGS: Final = "peerpods-offerings"  # ConfigMap, key offerings.json: what the cloud sells, for the webhook
WEBHOOK_TLS: Final = "peerpods-webhook-tls"  # Secret: ca.crt, tls.crt, tls.key, and the controller's ca.key
