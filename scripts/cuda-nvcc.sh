#!/usr/bin/env bash
# nvcc as the build of candle-kernels calls it, which knows one device: with NVCC set to this file and CUDA_COMPUTE_CAP=75,
# candle's kernels are made for every device of CUDA_ARCHITECTURES (75 80 89 90, as kernels/build.rs has them).
#
# Two kinds are compiled:
# - objects (products of quantized weights, mixtures of experts): machine code for each device, and PTX for later ones.
#   Devices from 8.0 on get the code paths of 8.0.
# - PTX, which the driver translates for the device that is there: one text for all, so it is that of the first device.
#   candle leaves bf16 out of it below 8.0, and scripts/cuda-bf16.cuh brings it back.
#
# CODESEAL_CUDA_CHECK=1 makes PTX alone, without optimization: a tenth of the time, to check that everything compiles and
# links. What else nvcc is called for is passed on.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nvcc=nvcc
[ -z "${CUDA_HOME:-}" ] || nvcc=$CUDA_HOME/bin/nvcc
read -r -a devices <<<"${CUDA_ARCHITECTURES:-75 80 89 90}"

kind=other rest=()
for argument in "$@"; do
  case $argument in
    -gencode=*) continue ;;
    -c) kind=objects ;;
    --ptx) kind=ptx ;;
  esac
  rest+=("$argument")
done

# What nvcc names things by is random otherwise, and the program would have other bytes each time.
[ "$kind" = other ] || rest+=("-frandom-seed=$(basename "${*: -1}")")
check=()
[ -z "${CODESEAL_CUDA_CHECK:-}" ] || check=(-Xcicc -O0)
# paths_of DEVICE: the device whose code paths it gets.
paths_of() { if [ "$1" -lt 80 ]; then echo "$1"; else echo 80; fi; }
case $kind in
  other) exec "$nvcc" "$@" ;;
  ptx)
    first=${devices[0]}
    exec "$nvcc" "-gencode=arch=compute_$first,code=compute_$first" -include "$here/cuda-bf16.cuh" "${check[@]}" "${rest[@]}" ;;
  objects)
    targets=()
    for device in "${devices[@]}"; do
      paths=$(paths_of "$device")
      [ -n "${CODESEAL_CUDA_CHECK:-}" ] || targets+=("-gencode=arch=compute_$paths,code=sm_$device")
    done
    targets+=("-gencode=arch=compute_$paths,code=compute_$paths")
    # Kernels of one type differ little: compressed for size they take a tenth of what is the default.
    exec "$nvcc" "${targets[@]}" --compress-mode=size "${check[@]}" "${rest[@]}" ;;
esac
