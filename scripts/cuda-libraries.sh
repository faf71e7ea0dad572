#!/usr/bin/env bash
# Installs what candle's CUDA backend loads beside the driver into a directory: scripts/cuda-libraries.sh DIRECTORY
#
# DIRECTORY/lib gets cuBLAS and cuRAND, of the versions that cuda-libraries.requirements pins by hash, and DIRECTORY/licenses
# their licences. On the machine with the GPU: LD_LIBRARY_PATH=DIRECTORY/lib. Without them --backend kernels runs all the
# same. Needs Python with pip; no GPU and no driver.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 64; }
LIBRARIES=(libcublas.so.13 libcublasLt.so.13 libcurand.so.10)

here=$(cd "$(dirname "$0")" && pwd)
out=$1
if cmp -s "$here/cuda-libraries.requirements" "$out/licenses/requirements"; then
  exit 0
fi
rm -rf "$out"
mkdir -p "$(dirname "$out")"
work=$(mktemp -d "$(dirname "$out")/cuda-libraries.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m pip install --quiet --no-deps --require-hashes --only-binary :all: --no-warn-script-location \
  --target "$work/site" -r "$here/cuda-libraries.requirements"
mkdir -p "$work/out/lib" "$work/out/licenses"
for library in "${LIBRARIES[@]}"; do
  mv "$work/site/nvidia/cu13/lib/$library" "$work/out/lib/"
done
for info in "$work"/site/*.dist-info; do
  name=$(basename "$info" .dist-info)
  find "$info" -iname 'license*' -type f -exec cp {} "$work/out/licenses/${name%%-*}" \;
done
cp "$here/cuda-libraries.requirements" "$work/out/licenses/requirements"
chmod -R u=rwX,go=rX "$work/out"
mv "$work/out" "$out"
