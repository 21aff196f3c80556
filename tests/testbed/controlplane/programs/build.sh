#!/usr/bin/env bash
# Builds the test cluster's programs into the folder $1: one binary, with a link for each program's name, and KWOK.
# $2 names the module file, go or oldest: the Kubernetes of the tests, or the oldest one that the chart promises to run
# on, which comes without the programs of nodes.
set -euo pipefail
out=$(realpath -m "$1")
modules=$2.mod
cd "$(dirname "$0")"
export CGO_ENABLED=0
programs="etcd kube-apiserver kube-controller-manager kube-scheduler kubectl"
if [ "$2" = go ]; then
  tags=nodes
  programs+=" kubelet kube-proxy coredns device-plugin"
else
  tags=providerless # without the clouds that it still had in its own tree
fi
version=$(go list -m -modfile="$modules" -f '{{.Version}}' k8s.io/kubernetes)
# Without a version the API server says v0.0.0, which charts' kubeVersion and kubectl's skew check refuse.
minor=${version#v1.}
minor=${minor%%.*}
stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamp+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"
  stamp+=" -X $package.gitTreeState=clean -X $package.gitCommit=module"
done
mkdir -p "$out"
go build -mod=readonly -modfile="$modules" -tags="$tags" -trimpath -ldflags "-s -w $stamp" -o "$out/kubernetes" .
for name in $programs; do
  ln -sf kubernetes "$out/$name"
done
# Built apart: it needs other versions of the same libraries.
GOBIN=$out go install -trimpath -ldflags "-s -w" sigs.k8s.io/kwok/cmd/kwok@v0.8.0
