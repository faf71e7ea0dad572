// Included before candle's kernels are compiled to PTX for a device below 8.0 (scripts/cuda-nvcc.sh).
//
// Below 8.0 CUDA's own headers compute bf16 in f32 and round, operation by operation, which any device can do. candle's
// sources leave their bf16 kernels out there. The headers are read first, so that they choose those functions; then the
// sources are told of 8.0. They test for nothing of it but bf16: instructions of 8.0 would not assemble, which
// scripts/cuda-devices.py tries.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#undef __CUDA_ARCH__
#define __CUDA_ARCH__ 800
#endif
