// What every kernel includes: CUDA's own headers under nvcc, the emulator's under a host compiler.
//
// Kernels are entries with C names, for they are looked up by name. Three things are spelt by macros, because a host
// needs more than the keyword: SHARED and SHARED_DYN for shared memory, EXPORT for an entry that can be launched.
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
#define SHARED(T, name, dims) __shared__ T name dims
#define SHARED_DYN(T, name)                                          \
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[]; \
  T* name = reinterpret_cast<T*>(dynamic_shared_memory)
#define EXPORT(kernel)
#else
#include "emulator.h"
#endif
