#!/usr/bin/env bash
# A node's first process. node.py starts it in mount, PID, network, UTS and IPC namespaces of its own, so that everything
# that a kubelet leaves behind (mounts, bridges, packet filter rules, shims, containers) ends with it.
#
#   node.sh FOLDER NAME ADDRESS/LENGTH,... GATEWAY,... [PODS=VIA...] -- [RESOURCE=COUNT...]
#
# Needs the cluster's programs in PATH and in PYTHON a Python that has PyYAML. FOLDER holds the node's files: its disk is
# FOLDER/disk. It has an ADDRESS, and a GATEWAY, of each version of IP that its pods have, in their order. GATEWAY is the
# machine, with the API server and the DNS. PODS=VIA are the other nodes' pods and how to reach them. RESOURCE=COUNT are
# the extended resources that it offers.
set -euo pipefail
here=$(dirname "$0")
folder=$1 name=$2
IFS=, read -ra addresses <<<"$3"
IFS=, read -ra gateways <<<"$4"
shift 4

# Volumes reach containers by mounts that are shared, and they are in here only.
mount --make-rprivate /
mount --make-rshared /
# Containerd's shims, CNI and device plugins have fixed paths below these.
mount -t tmpfs tmpfs /run
mount --bind "$folder/disk/lib" /var/lib
mount --bind "$folder/disk/log" /var/log
# Names are the cluster's DNS's to answer: those of others fail at once, not by time-outs.
resolv=$(realpath -m /etc/resolv.conf) # where it is a link, /run may have hidden its target
[ -e "$resolv" ] || { mkdir -p "${resolv%/*}" && touch "$resolv"; }
mount --bind "$folder/resolv.conf" "$resolv"

# The kubelet wants these settings, which are the whole machine's: it is shown files that say so, lest it changes them.
for setting in vm/overcommit_memory=1 kernel/panic=10 kernel/panic_on_oops=1; do
  file=${setting%=*}
  echo "${setting#*=}" >"/run/${file#*/}"
  mount --bind "/run/${file#*/}" "/proc/sys/$file"
done

# After a power cut the last kubelet's socket is still there, and the device plugin would take it for the new one's.
rm -f /var/lib/kubelet/device-plugins/*.sock

hostname "$name"
until ip link show eth0 &>/dev/null; do sleep 0.02; done
ip link set lo up
for address in "${addresses[@]}"; do
  nodad=$([[ $address != *:* ]] || echo nodad) # nobody else has it: IPv6 need not first ask for a second
  ip address add "$address" dev eth0 $nodad
done
ip link set eth0 up
for gateway in "${gateways[@]}"; do
  ip route add default via "$gateway"
done
for (( ; $# > 0; )); do
  [ "$1" != -- ] || { shift && break; }
  ip route add "${1%=*}" via "${1#*=}"
  shift
done
echo 1 >/proc/sys/net/ipv4/ip_forward
[[ ${addresses[*]} != *:* ]] || echo 1 >/proc/sys/net/ipv6/conf/all/forwarding

# As an init system would: a kubelet that finds no containerd yet, say, gives up.
keep_running() {
  local log=$folder/$1.log
  shift
  while :; do
    "$@" &>>"$log" || sleep 0.3
  done
}
rm -f "$folder/containerd.sock"
keep_running containerd containerd --config "$folder/containerd.toml" &
keep_running kube-proxy kube-proxy --config "$folder/kube-proxy.yaml" &
keep_running network-policies "$PYTHON" "$here/network_policies.py" "$folder/network-policies.kubeconfig" &
[ $# = 0 ] || keep_running device-plugin device-plugin "$folder/unhealthy" "$@" &
node_ips=$(IFS=, && echo "${addresses[*]%/*}")
until [ -S "$folder/containerd.sock" ]; do sleep 0.02; done
keep_running kubelet kubelet --config "$folder/kubelet.yaml" --kubeconfig "$folder/kubelet.kubeconfig" \
  --hostname-override "$name" --node-ip "$node_ips" &
wait
