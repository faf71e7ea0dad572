// Matrices of weights as tensor cores take them. A lane works on eight columns of a group of 32, those from its quarter of
// the warp on: so what it reads of a row lies together, and so does what it reads of a vector. In which order an
// instruction meets the columns does not matter, as long as both sides agree.
//
// A slice is what a lane reads of a row at once: sixteen bytes of one or several groups, and what scales them. `pairs` are
// the eight numbers of a group, as four registers. They are weights if they are not SCALED; else, with the `factors` of the
// group, a weight is scale * number - minus. Every type is made of two addresses, of which it may ignore the second.
#pragma once
#include "mma.cuh"

constexpr int GROUP = 32;

struct Factors {
  float scale, minus;
};

// Two numbers that T has exactly, as one register.
template <class T>
__device__ __forceinline__ unsigned exact2(float low, float high);
template <>
__device__ __forceinline__ unsigned exact2<bf16>(float low, float high) {
  return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}
template <>
__device__ __forceinline__ unsigned exact2<f16>(float low, float high) {
  return static_cast<unsigned>(to_bits(__float2half_rn(low))) |
         static_cast<unsigned>(to_bits(__float2half_rn(high))) << 16;
}

// Numbers as they are: [row][column].
template <class T>
struct Plain {
  static constexpr int GROUPS = 1;
  static constexpr bool SCALED = false, SHIFTED = false;
  typedef uint4 Slice;
  const T* numbers;

  __device__ Plain(const void* numbers, const void*) : numbers(static_cast<const T*>(numbers)) {}
  // The last columns again, beyond them: where a vector is zeros. A choice between what is read and zeros would make the
  // compiler wait for it.
  __device__ __forceinline__ Slice read(int row, int columns, int slice, int quarter) const {
    int column = min(slice * GROUP + quarter * 8, columns - 8);
    return *reinterpret_cast<const uint4*>(numbers + static_cast<size_t>(row) * columns + column);
  }
  static __device__ __forceinline__ void pairs(const Slice& slice, int, unsigned* to) {
    to[0] = slice.x, to[1] = slice.y, to[2] = slice.z, to[3] = slice.w;
  }
  static __device__ __forceinline__ Factors factors(const Slice&, int, int) { return {1.0f, 0.0f}; }
};

// Eight bits each, and a scale for every group.
template <class T>
struct EightBits {
  static constexpr int GROUPS = 2;
  static constexpr bool SCALED = true, SHIFTED = false;
  struct Slice {
    uint4 quants;
    unsigned scales;
  };
  const uint4* quants;     // [row][two groups][quarter]: eight bytes of each group
  const unsigned* scales;  // [row][two groups]: an f16 of each

  __device__ EightBits(const void* quants, const void* scales)
      : quants(static_cast<const uint4*>(quants)), scales(static_cast<const unsigned*>(scales)) {}
  __device__ __forceinline__ Slice read(int row, int columns, int slice, int quarter) const {
    int slices = (columns + GROUPS * GROUP - 1) / (GROUPS * GROUP);
    if (slice >= slices) return {make_uint4(0, 0, 0, 0), 0};
    size_t at = static_cast<size_t>(row) * slices + slice;
    return {quants[at * 4 + quarter], scales[at]};
  }
  static __device__ __forceinline__ void pairs(const Slice& slice, int group, unsigned* to) {
    const unsigned words[2] = {group ? slice.quants.z : slice.quants.x, group ? slice.quants.w : slice.quants.y};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      unsigned word = words[i / 2] ^ 0x80808080u;
      to[i] = exact2<T>(number(word, i % 2 * 2), number(word, i % 2 * 2 + 1));
    }
  }
  static __device__ __forceinline__ Factors factors(const Slice& slice, int group, int) {
    float2 both = unpack2<f16>(slice.scales);
    return {group ? both.y : both.x, 0.0f};
  }

 private:
  // A byte that is 128 more than the number, behind the exponent of 2^23: cheaper than a conversion.
  static __device__ __forceinline__ float number(unsigned word, int byte) {
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | static_cast<unsigned>(byte))) - 8388736.0f;
  }
};

// 16 as two numbers of T, and where in its bits the ones are.
template <class T>
struct Sixteen;
template <>
struct Sixteen<bf16> {
  static constexpr unsigned TWICE = 0x41804180u;
  static constexpr int ONES = 3;
};
template <>
struct Sixteen<f16> {
  static constexpr unsigned TWICE = 0x4c004c00u;
  static constexpr int ONES = 6;
};

// Four bits each; for every group a scale and a minimum of six bits, which are multiples of two f16 of 256 columns:
// ggml's Q4_K.
template <class T>
struct FourBits {
  static constexpr int GROUPS = 4;
  static constexpr bool SCALED = true, SHIFTED = true;
  struct Slice {
    uint4 quants, head;
  };
  // [row][four groups][quarter]: a word of each group, whose lower half has the columns 0, 2, 4 and 6.
  const uint4* quants;
  // [row][eight groups]: the two f16, and the scales and minima as ggml packs them.
  const uint4* heads;

  __device__ FourBits(const void* quants, const void* heads)
      : quants(static_cast<const uint4*>(quants)), heads(static_cast<const uint4*>(heads)) {}
  __device__ __forceinline__ Slice read(int row, int columns, int slice, int quarter) const {
    int slices = columns / (GROUPS * GROUP);
    if (slice >= slices) return {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
    size_t at = static_cast<size_t>(row) * slices + slice;
    return {quants[at * 4 + quarter], heads[at / 2]};
  }
  // 16 more than what they are: bits that are put where a number's ones are need no conversion.
  static __device__ __forceinline__ void pairs(const Slice& slice, int group, unsigned* to) {
    constexpr int ONES = Sixteen<T>::ONES;
    const unsigned words[4] = {slice.quants.x, slice.quants.y, slice.quants.z, slice.quants.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      unsigned moved = 4 * i < ONES ? words[group] << (ONES - 4 * i) : words[group] >> (4 * i - ONES);
      to[i] = (moved & 0x000f000fu << ONES) | Sixteen<T>::TWICE;
    }
  }
  static __device__ __forceinline__ Factors factors(const Slice& slice, int group, int number) {
    int shift = 8 * group;
    unsigned scale, minimum;
    if (number % 2 == 0) {
      scale = slice.head.y >> shift & 63;
      minimum = slice.head.z >> shift & 63;
    } else {
      scale = (slice.head.w >> shift & 15) | (slice.head.y >> (shift + 6) & 3) << 4;
      minimum = (slice.head.w >> (shift + 4) & 15) | (slice.head.z >> (shift + 6) & 3) << 4;
    }
    float2 units = unpack2<f16>(slice.head.x);
    float factor = units.x * static_cast<float>(scale);
    return {factor, fmaf(16.0f, factor, units.y * static_cast<float>(minimum))};
  }
};

// Decoding adds up a row in eight chains of consecutive slices, and the chains in their order.
constexpr int CHAINS = 8;
__device__ __forceinline__ int chain_length(int slices) { return (slices + CHAINS - 1) / CHAINS; }

// What a group of eight vectors adds up to, where that is needed.
struct Totals {
  float sums[4];
};
template <class T, class Weights>
__device__ __forceinline__ Totals add_up(uint4 vectors) {
  Totals totals = {};
  if constexpr (Weights::SHIFTED) {
    const unsigned ones[4] = {TWO_ONES<T>, TWO_ONES<T>, TWO_ONES<T>, TWO_ONES<T>};
    multiply_group<T>(totals.sums, ones, ones, vectors);
  }
  return totals;
}

// Adds to `sums` a group of sixteen rows, `upper` and `lower` pairs of which a lane has, times eight vectors.
template <class T, class Weights>
__device__ __forceinline__ void add_group(float* sums, const unsigned* upper, const unsigned* lower,
                                          const Factors* factors, uint4 vectors, const Totals& totals) {
  if constexpr (!Weights::SCALED) {
    multiply_group<T>(sums, upper, lower, vectors);
  } else {
    float part[4] = {};
    multiply_group<T>(part, upper, lower, vectors);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      sums[i] = fmaf(factors[i / 2].scale, part[i], sums[i]);
      if constexpr (Weights::SHIFTED) sums[i] = fmaf(-factors[i / 2].minus, totals.sums[i], sums[i]);
    }
  }
}

// The eight weights of a group of the slice with this number.
template <class T, class Weights>
__device__ __forceinline__ void read8(const typename Weights::Slice& slice, int group, int number, float* to) {
  unsigned pairs[4];
  Weights::pairs(slice, group, pairs);
  Factors factors = Weights::factors(slice, group, number);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    float2 pair = unpack2<T>(pairs[i]);
    to[2 * i] = Weights::SCALED ? fmaf(factors.scale, pair.x, -factors.minus) : pair.x;
    to[2 * i + 1] = Weights::SCALED ? fmaf(factors.scale, pair.y, -factors.minus) : pair.y;
  }
}
