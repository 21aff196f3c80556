#!/usr/bin/env bash
# Generates Python beside the .proto files; with --check, says whether what is committed is current.
# usage: generate.sh BIN_FOLDER [--check]
set -euo pipefail
cd "$(dirname "$0")"
bin=$(cd "../$1" 2>/dev/null && pwd || echo "$1")
out=.
if [ "${2:-}" = --check ]; then
  out=$(mktemp -d)
  trap 'rm -rf "$out"' EXIT
fi
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I . \
  --python_out="$out" --mypy_out="quiet:$out" --grpc_python_out="$out" --mypy_grpc_out="quiet:$out" \
  diffusionpipeline/v1/*.proto
if [ "$out" != . ]; then
  for f in diffusionpipeline/v1/*_pb2*; do
    cmp -s "$f" "$out/$f" || { echo "$f is not current: run make proto" >&2; exit 1; }
  done
fi
