#!/usr/bin/env bash
# Builds the test cluster's programs into the folder $1: one binary, with a link for each program's name, and KWOK.
set -euo pipefail
out=$(realpath -m "$1")
cd "$(dirname "$0")"
export CGO_ENABLED=0
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
# Without a version the API server says v0.0.0, which charts' kubeVersion and kubectl's skew check refuse.
minor=${version#v1.}
minor=${minor%%.*}
stamp=
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamp+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$minor"
  stamp+=" -X $package.gitTreeState=clean -X $package.gitCommit=module"
done
mkdir -p "$out"
go build -mod=readonly -trimpath -ldflags "-s -w $stamp" -o "$out/kubernetes" .
for name in etcd kube-{apiserver,controller-manager,scheduler,proxy} kubectl kubelet coredns device-plugin; do
  ln -sf kubernetes "$out/$name"
done
# Built apart: it needs other versions of the same libraries.
GOBIN=$out go install -trimpath -ldflags "-s -w" sigs.k8s.io/kwok/cmd/kwok@v0.8.0
