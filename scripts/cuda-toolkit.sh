#!/usr/bin/env bash
# Installs nvcc 13.0 into a directory, for building with the feature `cuda`: scripts/cuda-toolkit.sh [--compiler] DIRECTORY
# No GPU, no driver and no root is needed, only Python with pip and g++. Then:
#   . DIRECTORY/env && cargo build --release --no-default-features --features server,cuda
# The program loads the driver (580 or newer) and candle's libraries at their first use: it is linked with the stand-ins of
# scripts/cuda-stubs.py in DIRECTORY/lib/stubs, and starts where none of them is installed. --compiler leaves out the
# stand-ins, which are made from a crate's sources.
set -euo pipefail
stubs=1
if [ "${1:-}" = --compiler ]; then
  stubs=0
  shift
fi
[ $# = 1 ] || { echo "usage: $0 [--compiler] DIRECTORY" >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
home=$1
if ! { [ -x "$home/bin/nvcc" ] && cmp -s "$here/cuda-toolkit.requirements" "$home/requirements"; }; then
  rm -rf "$home"
  mkdir -p "$(dirname "$home")"
  site=$(mktemp -d "$(dirname "$home")/cuda-toolkit.XXXXXX")
  trap 'rm -rf "$site"' EXIT
  python3 -m pip install --quiet --no-deps --require-hashes --only-binary :all: --no-warn-script-location \
    --target "$site" -r "$here/cuda-toolkit.requirements"
  # nvcc finds its parts from where it really is, so it is moved, not linked.
  mv "$site/nvidia/cu13" "$home"
  ln -s lib "$home/lib64"
  cp "$here/cuda-toolkit.requirements" "$home/requirements"
  "$home/bin/nvcc" --version | tail -n 2
fi
# The linker would take this one instead of the static library.
rm -f "$home/lib/libcudart.so"
[ "$stubs" = 0 ] || python3 "$here/cuda-stubs.py" "$home/lib/stubs"
home=$(cd "$home" && pwd)
cat >"$home/env" <<END
# For building with the feature cuda, for all devices: scripts/cuda-nvcc.sh says how.
export CUDA_HOME='$home' NVCC='$here/cuda-nvcc.sh' CUDA_COMPUTE_CAP=75
END
