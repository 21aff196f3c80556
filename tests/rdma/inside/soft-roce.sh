#!/bin/bash
# Gives the guest an RDMA device, rxe0: on eth0 if it has one, else on a card of its own that leads nowhere.
set -e
modprobe rdma_rxe
modprobe rdma_ucm
card=eth0
if [ ! -e /sys/class/net/eth0 ]; then
  card=rdma0
  ip link add $card type dummy
  ip link set $card mtu 9000 up
  ip address add 10.77.0.1/24 dev $card
fi
rdma link add rxe0 type rxe netdev $card
for _ in $(seq 100); do
  grep -q ACTIVE /sys/class/infiniband/rxe0/ports/1/state && exit
  sleep 0.1
done
echo "rxe0 did not become ACTIVE: $(cat /sys/class/infiniband/rxe0/ports/1/state)"
exit 1
