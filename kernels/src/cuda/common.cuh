// What kernels share: number types, loads of sixteen bytes, sums over warps and blocks.
#pragma once
#include "portable.cuh"

typedef __nv_bfloat16 bf16;
typedef __half f16;

constexpr unsigned ALL_LANES = ~0u;
constexpr int HEAD = 256;        // numbers of a head
constexpr int PAGE_TOKENS = 32;  // tokens of a page of keys and values

// Launches overlap where they can, from 9.0 on (programmatic dependent launch): blocks start as soon as all of the launch
// before have let them, and wait in time. Every thread does both: before it reads what another kernel writes, and before
// it writes. Weights are written by none, so they may be read before: the memory is never idle between two products.
__device__ __forceinline__ void let_next_start() {
#if !defined(EMULATED) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void wait_for_previous() {
#if defined(EMULATED)
  emu::wait_for_previous();
#elif __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// What a kernel begins with that reads no weights.
__device__ __forceinline__ void begin_kernel() {
  let_next_start();
  wait_for_previous();
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(f16 x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float x) {
  return __float2bfloat16_rn(x);
}
// What is too large for f16 becomes its largest number: Gemma's activations can be, and infinity would become NaN.
template <>
__device__ __forceinline__ f16 from_float<f16>(float x) {
  x = x > 65504.0f ? 65504.0f : x;
  x = x < -65504.0f ? -65504.0f : x;
  return __float2half_rn(x);
}

__device__ __forceinline__ unsigned short to_bits(bf16 x) { return __bfloat16_as_ushort(x); }
__device__ __forceinline__ unsigned short to_bits(f16 x) { return __half_as_ushort(x); }

// Two numbers as one register, the first in the lower half.
template <class T>
__device__ __forceinline__ unsigned pack2(float low, float high) {
  return static_cast<unsigned>(to_bits(from_float<T>(low))) | static_cast<unsigned>(to_bits(from_float<T>(high))) << 16;
}
template <class T>
__device__ __forceinline__ float2 unpack2(unsigned both);
template <>
__device__ __forceinline__ float2 unpack2<bf16>(unsigned both) {
  return make_float2(__uint_as_float(both << 16), __uint_as_float(both & 0xffff0000u));
}
template <>
__device__ __forceinline__ float2 unpack2<f16>(unsigned both) {
  return make_float2(__half2float(__ushort_as_half(static_cast<unsigned short>(both))),
                     __half2float(__ushort_as_half(static_cast<unsigned short>(both >> 16))));
}

// Eight numbers that lie together, on a boundary of 16 bytes.
__device__ __forceinline__ void load8(const float* from, float* to) {
  float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
template <class T>
__device__ __forceinline__ void unpack8(uint4 all, float* to) {
  const unsigned pairs[4] = {all.x, all.y, all.z, all.w};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float2 pair = unpack2<T>(pairs[i]);
    to[2 * i] = pair.x;
    to[2 * i + 1] = pair.y;
  }
}
template <class T>
__device__ __forceinline__ void load8(const T* from, float* to) {
  unpack8<T>(*reinterpret_cast<const uint4*>(from), to);
}
__device__ __forceinline__ void store8(float* to, const float* from) {
  reinterpret_cast<float4*>(to)[0] = make_float4(from[0], from[1], from[2], from[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(from[4], from[5], from[6], from[7]);
}
template <class T>
__device__ __forceinline__ void store8(T* to, const float* from) {
  *reinterpret_cast<uint4*>(to) = make_uint4(pack2<T>(from[0], from[1]), pack2<T>(from[2], from[3]),
                                             pack2<T>(from[4], from[5]), pack2<T>(from[6], from[7]));
}

// The sum over the warp, for every lane.
__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset; offset >>= 1) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}
// Each of the N numbers of `s` summed over the warp: lane l gets the sum of number l / (32 / N). Lanes trade halves, then
// quarters, which are fewer exchanges than one sum after the other, and add up in the same order as warp_sum does.
template <int N>
__device__ __forceinline__ float warp_sums(float* s) {
  int lane = threadIdx.x & 31, offset = 16;
#pragma unroll
  for (int n = N / 2; n; n >>= 1, offset >>= 1) {
    bool upper = lane & offset;
#pragma unroll
    for (int i = 0; i < n; i++) {
      float give = upper ? s[i] : s[i + n], keep = upper ? s[i + n] : s[i];
      s[i] = keep + __shfl_xor_sync(ALL_LANES, give, offset);
    }
  }
  for (; offset; offset >>= 1) s[0] += __shfl_xor_sync(ALL_LANES, s[0], offset);
  return s[0];
}
// The sum over the block, for every thread. All threads of whole warps take part.
__device__ __forceinline__ float block_sum(float x) {
  SHARED(float, partial, [32]);
  x = warp_sum(x);
  __syncthreads();  // partial may still be read for an earlier sum
  if ((threadIdx.x & 31) == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; i++) sum += partial[i];
  return sum;
}
