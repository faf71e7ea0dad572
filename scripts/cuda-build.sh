#!/usr/bin/env bash
# Builds, without a GPU, what a machine with one is checked with: scripts/cuda-build.sh DIRECTORY
#
# DIRECTORY gets codeseal-server with the CUDA kernels, gpu-check.sh, and the script that measures transformers beside it:
# below 60 MB, to be copied to the machine as it is, where ./gpu-check.sh ./codeseal-server runs it. Needs Rust, Python with
# pip, and g++: nvcc is installed to target/cuda, unless CUDA_HOME names it. A first build takes many minutes.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 64; }
MOST_BYTES=60000000

mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.."
if [ -z "${CUDA_HOME:-}" ]; then
  scripts/cuda-toolkit.sh target/cuda
  export CUDA_HOME=$PWD/target/cuda
fi
cargo build --release --locked --no-default-features --features server,cuda --bin codeseal-server
mkdir -p "$out/gpu-check"
cp "${CARGO_TARGET_DIR:-target}/release/codeseal-server" scripts/gpu-check.sh "$out"
cp scripts/gpu-check/transformers_peer.py "$out/gpu-check"

fail() { echo "$0: $*" >&2; exit 70; }

bytes=$(cat "$out/codeseal-server" "$out/gpu-check.sh" "$out/gpu-check/transformers_peer.py" | wc -c)
echo "$bytes bytes"
[ "$bytes" -lt "$MOST_BYTES" ] || fail "that is more than the $MOST_BYTES that may be copied to a machine"

# As kernels/build.rs has them, where nothing else is asked for.
read -r -a devices <<<"${CUDA_ARCHITECTURES:-75 80 89 90}"
python3 scripts/cuda-devices.py "$out/codeseal-server" "${devices[@]}"

if [ -e /proc/driver/nvidia ]; then
  echo "there is a driver here, so how the program ends without one is not checked"
else
  code=0
  said=$("$out/codeseal-server" kernels-check --device cuda 2>&1) || code=$?
  echo "without a driver it ends with $code: $said"
  [ "$code" = 69 ] || fail "that should be 69"
  [ "$said" = "codeseal-server: no device: libcuda.so.1 is not installed" ] || fail "that is not what it should say"
fi
