#!/usr/bin/env bash
# Installs nvcc 13.0 into a directory, for building with the feature `cuda`: scripts/cuda-toolkit.sh DIRECTORY
# No GPU, no driver and no root is needed, only Python with pip and g++. Then:
#   CUDA_HOME=DIRECTORY cargo build --release --no-default-features --features server,cuda
# The program loads the driver (580 or newer) when it runs, so nothing of CUDA is linked. What links all the same finds
# stand-ins for the libraries in DIRECTORY/lib/stubs.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 64; }
here=$(cd "$(dirname "$0")" && pwd)
home=$1
if [ -x "$home/bin/nvcc" ] && cmp -s "$here/cuda-toolkit.requirements" "$home/requirements"; then
  exit 0
fi
rm -rf "$home"
mkdir -p "$(dirname "$home")"
site=$(mktemp -d "$(dirname "$home")/cuda-toolkit.XXXXXX")
trap 'rm -rf "$site"' EXIT
python3 -m pip install --quiet --no-deps --require-hashes --only-binary :all: --no-warn-script-location \
  --target "$site" -r "$here/cuda-toolkit.requirements"
# nvcc finds its parts from where it really is, so it is moved, not linked.
mv "$site/nvidia/cu13" "$home"
ln -s lib "$home/lib64"
ln -s libcudart.so.13 "$home/lib/libcudart.so"
python3 "$here/cuda-stubs.py" "$home/lib/stubs"
cp "$here/cuda-toolkit.requirements" "$home/requirements"
"$home/bin/nvcc" --version | tail -n 2
