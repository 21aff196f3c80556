"""What a node's programs are told, as the files that they read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

PAUSE_IMAGE = "registry.test/pause:1"


def containerd(socket: Path, cni: Path) -> str:
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Where root lacks CAP_SYS_RESOURCE it may not lower a process's OOM score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def pod_network(pods: Sequence[str]) -> str:
    """For the CNI plugins: pods have an address of each of these subnets."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}] for subnet in pods],
        "routes": [{"dst": "::/0" if ":" in subnet else "0.0.0.0/0"} for subnet in pods],
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    host_ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, host_ports]})


def kubelet(
    *, socket: Path, address: str, resolv: Path, dns: str, group: str, authority: Path, serving: tuple[Path, Path]
) -> str:
    certificate, key = map(str, serving)
    return _dump(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": certificate,
            "tlsPrivateKeyFile": key,
            "containerRuntimeEndpoint": f"unix://{socket}",
            "resolvConf": str(resolv),
            "clusterDNS": [dns],
            "clusterDomain": "cluster.local",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{group}",
            "failSwapOn": False,
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            "maxPods": 100,
            # The disk is shared with whatever else the machine does.
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "serializeImagePulls": False,
            # It says each two seconds that it lives, so that a node's loss is soon noticed.
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 8,
            "syncFrequency": "5s",
        }
    )


def kube_proxy(*, node: str, address: str, kubeconfig: Path, pods: Sequence[str]) -> str:
    # The whole machine's settings, which a network namespace cannot write.
    conntrack = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return _dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": node,
            "bindAddress": address,
            "clusterCIDR": ",".join(pods),
            "oomScoreAdj": 0,
            "conntrack": conntrack,
        }
    )


def corefile(address: str, kubeconfig: Path) -> str:
    return f"""\
.:53 {{
  bind {address}
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {{
    kubeconfig {kubeconfig}
    ttl 1
  }}
}}
"""


def _dump(document: dict[str, Any]) -> str:
    return yaml.safe_dump(document)
