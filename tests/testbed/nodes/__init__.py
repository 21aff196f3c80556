"""Real nodes for the test cluster: kubelet, containerd, kube-proxy and DNS, so that pods run and reach each other.

Each node lives in Linux namespaces of its own (`node.sh`), joined to the others by a bridge (`machine`). Whatever ends
a node's first process ends all of it; `cluster.NodeCluster` starts them, loads images, cuts their power and cables.
"""
