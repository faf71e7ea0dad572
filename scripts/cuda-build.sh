#!/usr/bin/env bash
# Builds, without a GPU, what a machine with one is checked with: scripts/cuda-build.sh DIRECTORY
#
# DIRECTORY gets codeseal-server with the CUDA kernels and candle's, compressed, gpu-check.sh, and the script that measures
# transformers beside it: below 60 MB, to be copied to the machine as it is, where ./gpu-check.sh codeseal-server.gz runs it.
# Needs Rust, Python with pip, and g++: nvcc is installed to target/cuda, unless CUDA_HOME names what scripts/cuda-toolkit.sh installed.
# A first build takes many minutes, most of it for candle's kernels.
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
# As kernels/build.rs has them, where nothing else is asked for.
read -r -a devices <<<"${CUDA_ARCHITECTURES:-75 80 89 90}"
export NVCC=$PWD/scripts/cuda-nvcc.sh CUDA_COMPUTE_CAP=${devices[0]}
cargo build --release --locked --no-default-features --features server,cuda --bin codeseal-server
server=${CARGO_TARGET_DIR:-target}/release/codeseal-server
mkdir -p "$out/gpu-check"
gzip -9 <"$server" >"$out/codeseal-server.gz"
cp scripts/gpu-check.sh "$out"
cp scripts/gpu-check/transformers_peer.py "$out/gpu-check"

fail() { echo "$0: $*" >&2; exit 70; }

bytes=$(cat "$out/codeseal-server.gz" "$out/gpu-check.sh" "$out/gpu-check/transformers_peer.py" | wc -c)
echo "$bytes bytes; the program has $(wc -c <"$server")"
[ "$bytes" -lt "$MOST_BYTES" ] || fail "that is more than the $MOST_BYTES that may be copied to a machine"

ptxas=()
[ ! -x "$CUDA_HOME/bin/ptxas" ] || ptxas=(--ptxas "$CUDA_HOME/bin/ptxas")
python3 scripts/cuda-devices.py "$server" "${devices[@]}" ${ptxas[@]+"${ptxas[@]}"} ||
  fail "some kernels are missing; if candle's were compiled for other devices before: cargo clean --release -p candle-kernels"
scripts/cuda-start.sh "$server"
