//go:build nodes

package main

import (
	"context"

	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func init() {
	programs["kubelet"] = func() { run(kubelet.NewKubeletCommand(context.Background())) }
	programs["kube-proxy"] = func() { run(proxy.NewProxyCommand()) }
	programs["coredns"] = runCoreDNS
	programs["device-plugin"] = runDevicePlugin
}
