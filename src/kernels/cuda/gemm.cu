// Products of a matrix with many vectors, on tensor cores: what reading a prompt is. Vectors are rounded to the weights'
// type, or to `Rounded` where weights are quantised; sums are f32, from the first column to the last, whatever else is in
// the batch.
#include "mma.cuh"

namespace {

constexpr int TILE = 64, WARPS = 4, DEPTH = 64, CHUNKS = DEPTH / 8;  // a chunk is 16 bytes
constexpr int EACH = TILE * CHUNKS / (WARPS * 32);                   // chunks of a tile for each thread

// Chunks of eight rows must not lie in the same banks.
__device__ __forceinline__ int place(int row, int chunk) { return row * CHUNKS + (chunk ^ (row & 7)); }

// Eight numbers of a row of weights, as the tensor cores take them.
template <class T>
struct Plain {
  const T* numbers;
  __device__ __forceinline__ uint4 read(size_t at) const { return *reinterpret_cast<const uint4*>(numbers + at); }
};
template <class T>
struct Quantised {
  const signed char* quants;
  const f16* scales;
  __device__ __forceinline__ uint4 read(size_t at) const {
    uint2 eight = *reinterpret_cast<const uint2*>(quants + at);
    float scale = to_float(scales[at / 32]), numbers[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      unsigned word = i < 4 ? eight.x : eight.y;
      numbers[i] = scale * static_cast<float>(static_cast<signed char>(word >> i % 4 * 8 & 0xff));
    }
    return make_uint4(pack2<T>(numbers[0], numbers[1]), pack2<T>(numbers[2], numbers[3]),
                      pack2<T>(numbers[4], numbers[5]), pack2<T>(numbers[6], numbers[7]));
  }
};

// Blocks: [64 rows of the matrix][64 vectors]. Each of the four warps makes a quarter of the tile, 32 by 32.
template <class T, class Weights>
__device__ void multiply_many(Weights weights, const float* x, float* out, int rows, int columns, int vectors) {
  SHARED(uint4, left, [TILE * CHUNKS]);   // vectors
  SHARED(uint4, right, [TILE * CHUNKS]);  // rows
  int thread = threadIdx.x, warp = thread / 32, lane = thread & 31;
  int first_row = blockIdx.x * TILE, first_vector = blockIdx.y * TILE;
  int vector_part = warp / 2 * 32, row_part = warp % 2 * 32;
  float sums[2][4][4] = {};
  for (int begin = 0; begin < columns; begin += DEPTH) {
    __syncthreads();  // the tiles before have been read
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int index = thread + i * WARPS * 32, row = index / CHUNKS, chunk = index % CHUNKS, column = begin + chunk * 8;
      uint4 numbers = make_uint4(0, 0, 0, 0);
      if (first_vector + row < vectors && column < columns) {
        float eight[8];
        load8(x + static_cast<size_t>(first_vector + row) * columns + column, eight);
        numbers = make_uint4(pack2<T>(eight[0], eight[1]), pack2<T>(eight[2], eight[3]), pack2<T>(eight[4], eight[5]),
                             pack2<T>(eight[6], eight[7]));
      }
      left[place(row, chunk)] = numbers;
      numbers = make_uint4(0, 0, 0, 0);
      if (first_row + row < rows && column < columns) {
        numbers = weights.read(static_cast<size_t>(first_row + row) * columns + column);
      }
      right[place(row, chunk)] = numbers;
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < DEPTH / 16; step++) {
      unsigned a[2][4], b[2][4];
#pragma unroll
      for (int m = 0; m < 2; m++) {
        load_matrices<false>(a[m], left + place(vector_part + m * 16 + (lane & 15), step * 2 + lane / 16));
      }
#pragma unroll
      for (int n = 0; n < 2; n++) {
        int row = row_part + n * 16 + lane / 16 * 8 + (lane & 7);
        load_matrices<false>(b[n], right + place(row, step * 2 + (lane / 8 & 1)));
      }
#pragma unroll
      for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int n = 0; n < 4; n++) multiply<T>(sums[m][n], a[m], b[n / 2] + n % 2 * 2);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int n = 0; n < 4; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int vector = first_vector + vector_part + m * 16 + lane / 4 + i / 2 * 8;
        int row = first_row + row_part + n * 8 + lane % 4 * 2 + i % 2;
        if (vector < vectors && row < rows) out[static_cast<size_t>(vector) * rows + row] = sums[m][n][i];
      }
    }
  }
}

}  // namespace

#define GEMM_PLAIN(name, T)                                                                                      \
  extern "C" __global__ void __launch_bounds__(128) name(const T* weights, const float* x, float* out, int rows, \
                                                         int columns, int vectors) {                             \
    multiply_many<T>(Plain<T>{weights}, x, out, rows, columns, vectors);                                         \
  }                                                                                                              \
  EXPORT(name)
#define GEMM_QUANTISED(name, T)                                                                              \
  extern "C" __global__ void __launch_bounds__(128) name(const signed char* quants, const f16* scales,       \
                                                         const float* x, float* out, int rows, int columns,  \
                                                         int vectors) {                                      \
    multiply_many<T>(Quantised<T>{quants, scales}, x, out, rows, columns, vectors);                          \
  }                                                                                                          \
  EXPORT(name)
GEMM_PLAIN(gemm_bf16, bf16)
GEMM_PLAIN(gemm_f16, f16)
GEMM_QUANTISED(gemm_q8_0_bf16, bf16)
GEMM_QUANTISED(gemm_q8_0_f16, f16)
