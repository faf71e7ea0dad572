// Products of a matrix with a few vectors, which is what decoding is: every weight is read once, at the memory's speed.
// Sums are f32, in an order that does not depend on how many vectors there are.
#include "common.cuh"

namespace {

constexpr int WARPS = 4, TOGETHER = 8;  // numbers of a row that a lane takes at a time

template <class T>
struct Plain {
  const T* numbers;
  __device__ __forceinline__ void read(size_t at, float* to) const { load8(numbers + at, to); }
};

// Eight bits each, and a scale for every 32.
struct Quantised {
  const signed char* quants;
  const f16* scales;
  __device__ __forceinline__ void read(size_t at, float* to) const {
    uint2 eight = *reinterpret_cast<const uint2*>(quants + at);
    float scale = to_float(scales[at / 32]);
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) {
      unsigned word = i < 4 ? eight.x : eight.y;
      to[i] = scale * static_cast<float>(static_cast<signed char>(word >> i % 4 * 8 & 0xff));
    }
  }
};

// Each warp makes ROWS numbers of each of VECTORS results. Lanes past the ends repeat the last row and vector, and
// write nothing.
template <int VECTORS, int ROWS, class Weights>
__device__ void multiply(Weights weights, const float* x, float* out, int rows, int columns, int vectors) {
  int lane = threadIdx.x & 31, first = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
  if (first >= rows) return;
  float sums[VECTORS][ROWS] = {};
#pragma unroll 2
  for (int column = lane * TOGETHER; column < columns; column += 32 * TOGETHER) {
    float weight[ROWS][TOGETHER];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      weights.read(static_cast<size_t>(min(first + r, rows - 1)) * columns + column, weight[r]);
    }
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
      float numbers[TOGETHER];
      load8(x + static_cast<size_t>(min(v, vectors - 1)) * columns + column, numbers);
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int k = 0; k < TOGETHER; k++) sums[v][r] = fmaf(weight[r][k], numbers[k], sums[v][r]);
      }
    }
  }
  constexpr int ALL = VECTORS * ROWS, LANES = 32 / ALL;
  float sum = warp_sums<ALL>(&sums[0][0]);
  int v = lane / LANES / ROWS, row = first + lane / LANES % ROWS;
  if (lane % LANES == 0 && v < vectors && row < rows) out[static_cast<size_t>(v) * rows + row] = sum;
}

}  // namespace

// As many rows for a warp as keep what is read of the vectors below what is read of the matrix.
#define GEMV_PLAIN(name, T, VECTORS, ROWS)                                                                       \
  extern "C" __global__ void __launch_bounds__(128) name(const T* weights, const float* x, float* out, int rows, \
                                                         int columns, int vectors) {                             \
    multiply<VECTORS, ROWS>(Plain<T>{weights}, x, out, rows, columns, vectors);                                  \
  }                                                                                                              \
  EXPORT(name)
#define GEMV_QUANTISED(name, VECTORS, ROWS)                                                                  \
  extern "C" __global__ void __launch_bounds__(128) name(const signed char* quants, const f16* scales,       \
                                                         const float* x, float* out, int rows, int columns,  \
                                                         int vectors) {                                      \
    multiply<VECTORS, ROWS>(Quantised{quants, scales}, x, out, rows, columns, vectors);                      \
  }                                                                                                          \
  EXPORT(name)
GEMV_PLAIN(gemv_bf16_1, bf16, 1, 2)
GEMV_PLAIN(gemv_bf16_2, bf16, 2, 2)
GEMV_PLAIN(gemv_bf16_4, bf16, 4, 4)
GEMV_PLAIN(gemv_bf16_8, bf16, 8, 4)
GEMV_PLAIN(gemv_f16_1, f16, 1, 2)
GEMV_PLAIN(gemv_f16_2, f16, 2, 2)
GEMV_PLAIN(gemv_f16_4, f16, 4, 4)
GEMV_PLAIN(gemv_f16_8, f16, 8, 4)
GEMV_QUANTISED(gemv_q8_0_1, 1, 2)
GEMV_QUANTISED(gemv_q8_0_2, 2, 2)
GEMV_QUANTISED(gemv_q8_0_4, 4, 4)
GEMV_QUANTISED(gemv_q8_0_8, 8, 4)
