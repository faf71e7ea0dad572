// What sampling is made of: ordered logits, integer weights, random numbers, and sums over a block of threads.
// All that decides is done in whole numbers, or in f32 operations that every CPU and GPU rounds alike, so
// kernels/src/sampling.rs, which explains the steps, samples the very same token.
#pragma once
#include "common.cuh"

typedef unsigned long long u64;

constexpr unsigned NONE = ~0u;
constexpr u64 NOT_FINITE = ~u64{0};

// Larger for larger numbers; the two zeros are one.
__device__ __forceinline__ unsigned order(float x) {
  unsigned bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// exp((logit - largest) / temperature) in 40 bits after the point, step by step as on the host.
__device__ u64 weigh(float logit, float largest, float inverse) {
  float x = __fmul_rn(__fsub_rn(logit, largest), inverse);
  if (!(x > -28.0f)) return 0;
  float whole = floorf(__fadd_rn(__fmul_rn(x, 1.442695f), 0.5f));
  float rest = __fsub_rn(x, __fmul_rn(whole, 0.6933594f));
  rest = __fadd_rn(rest, __fmul_rn(whole, 2.1219444e-4f));
  float sum = 1.9875691e-4f;
  sum = __fadd_rn(__fmul_rn(sum, rest), 1.3981999e-3f);
  sum = __fadd_rn(__fmul_rn(sum, rest), 8.333452e-3f);
  sum = __fadd_rn(__fmul_rn(sum, rest), 4.1665796e-2f);
  sum = __fadd_rn(__fmul_rn(sum, rest), 0.16666665f);
  sum = __fadd_rn(__fmul_rn(sum, rest), 0.5f);
  float power = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(sum, rest), rest), rest), 1.0f);
  power = __fmul_rn(power, __uint_as_float(static_cast<unsigned>(127 + static_cast<int>(whole)) << 23));
  return static_cast<u64>(__fmul_rn(power, 1099511627776.0f));
}

// The Philox 4x32-10 generator: 64 bits for each key and counter.
__device__ u64 philox(u64 key, u64 counter) {
  unsigned k0 = static_cast<unsigned>(key), k1 = static_cast<unsigned>(key >> 32);
  unsigned c0 = static_cast<unsigned>(counter), c1 = static_cast<unsigned>(counter >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; round++) {
    unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return static_cast<u64>(c1) << 32 | c0;
}

__device__ __forceinline__ u64 warp_max(u64 x) {
  for (int offset = 16; offset; offset >>= 1) {
    u64 other = __shfl_xor_sync(ALL_LANES, x, offset);
    x = other > x ? other : x;
  }
  return x;
}
__device__ __forceinline__ u64 warp_total(u64 x) {
  for (int offset = 16; offset; offset >>= 1) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}

// A warp's number for each warp of the block, for every thread.
struct PerWarp {
  u64* numbers;
  __device__ void put(u64 number) const {
    __syncthreads();  // what was there before has been read
    if ((threadIdx.x & 31) == 0) numbers[threadIdx.x / 32] = number;
    __syncthreads();
  }
  __device__ u64 sum() const {
    u64 all = 0;
    for (unsigned w = 0; w < blockDim.x / 32; w++) all += numbers[w];
    return all;
  }
};

// Calls `see(i, x[i])` for every i from `begin` to `end`; one of `threads` threads calls it for its share. Reads sixteen
// bytes at a time where they lie so.
template <class See>
__device__ __forceinline__ void for_each(const float* x, int begin, int end, int thread, int threads, See see) {
  if (reinterpret_cast<uintptr_t>(x + begin) % 16 == 0) {
    const float4* quads = reinterpret_cast<const float4*>(x + begin);
    int count = (end - begin) / 4;
#pragma unroll 4
    for (int q = thread; q < count; q += threads) {
      float4 quad = quads[q];
      int i = begin + 4 * q;
      see(i, quad.x);
      see(i + 1, quad.y);
      see(i + 2, quad.z);
      see(i + 3, quad.w);
    }
    begin += 4 * count;
  }
  for (int i = begin + thread; i < end; i += threads) see(i, x[i]);
}

// How a row is sampled; eight words, as the host writes them.
struct RowSampler {
  float inverse_temperature;  // 0: greedy
  unsigned top_k;             // 0: all
  u64 top_p;                  // a fraction of 2^64; all ones: all
  u64 least_weight;
  u64 seed;
};
__device__ __forceinline__ RowSampler sampler_of(const unsigned* words) {
  auto wide = [&](int i) { return static_cast<u64>(words[i + 1]) << 32 | words[i]; };
  return {__uint_as_float(words[0]), words[1], wide(2), wide(4), wide(6)};
}
