// Products of a matrix with many vectors, which is what reading a prompt is: tensor cores, fed from tiles in shared memory
// that are filled while others are worked on. Quantised weights are rounded to the vectors' type on their way. Sums are
// f32, from the first column to the last, whatever else is in the batch and however large the tiles are.
#include "copies.cuh"
#include "mma.cuh"
#include "weights.cuh"

namespace {

constexpr int WARPS = 8, THREADS = WARPS * 32, STAGES = 3;

// How a tile's rows of weights get into shared memory, a group of columns at a time.
template <class T, class Weights, int ROWS>
struct Relay {
  static constexpr int EACH = ROWS * 4 / THREADS;  // quarters of a group for each thread
  Weights weights;
  int first_row, rows, columns;
  typename Weights::Slice slices[EACH];

  __device__ __forceinline__ void read(int slice) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int at = threadIdx.x + i * THREADS;
      slices[i] = weights.read(min(first_row + at / 4, rows - 1), columns, slice, at % 4);
    }
  }
  __device__ __forceinline__ void write(uint4* to, int slice, int group) const {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      float eight[8];
      read8<T, Weights>(slices[i], group, slice, eight);
      to[threadIdx.x + i * THREADS] = make_uint4(pack2<T>(eight[0], eight[1]), pack2<T>(eight[2], eight[3]),
                                                 pack2<T>(eight[4], eight[5]), pack2<T>(eight[6], eight[7]));
    }
  }
};

// Numbers as they are need no registers on their way.
template <class T, int COUNT>
__device__ __forceinline__ void copy(Copies& copies, uint4* to, const T* from, int first, int rows, int columns, int group) {
#pragma unroll
  for (int i = 0; i < COUNT * 4 / THREADS; i++) {
    int at = threadIdx.x + i * THREADS, row = first + at / 4, column = group * GROUP + at % 4 * 8;
    bool is_there = row < rows && column < columns;
    copies.start(to + at, is_there ? from + static_cast<size_t>(row) * columns + column : from, is_there);
  }
}

// Blocks: [SIDE vectors][SIDE rows of the matrix], so that those that run at the same time share rows. The warps make two
// rows of four parts of the tile.
template <class T, class Weights, int SIDE>
__device__ void multiply_many(Weights weights, const T* x, float* out, int rows, int columns, int vectors) {
  constexpr int GROUPS = Weights::GROUPS, TILES = SIDE / 2 / 16, EIGHTS = SIDE / 4 / 8;
  SHARED(uint4, left, [STAGES][SIDE * 4]);   // rows, [row][quarter]
  SHARED(uint4, right, [STAGES][SIDE * 4]);  // vectors
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32, place = lane / 4;
  int first_vector = blockIdx.x * SIDE, first_row = blockIdx.y * SIDE;
  int row_part = warp / 4 * (SIDE / 2), vector_part = warp % 4 * (SIDE / 4);
  int groups = (columns + GROUP - 1) / GROUP;
  Copies copies;
  Relay<T, Weights, SIDE> relay{weights, first_row, rows, columns, {}};

  // Fills the stage that `group` belongs to. `part` is its place in its slice, which the compiler knows.
  auto fill = [&](int group, int part) {
    int stage = group % STAGES;
    if constexpr (Weights::SCALED) {
      if (part == 0) relay.read(group / GROUPS);
      relay.write(left[stage], group / GROUPS, part);
    } else {
      copy<T, SIDE>(copies, left[stage], weights.numbers, first_row, rows, columns, group);
    }
    copy<T, SIDE>(copies, right[stage], x, first_vector, vectors, columns, group);
  };

  float sums[TILES][EIGHTS][4] = {};
#pragma unroll
  for (int group = 0; group < STAGES - 1; group++) {
    fill(group, group % GROUPS);
    copies.commit();
  }
  for (int first = 0; first < groups; first += GROUPS) {
#pragma unroll
    for (int part = 0; part < GROUPS; part++) {
      int group = first + part, stage = group % STAGES;
      if (group >= groups) break;
      copies.wait<STAGES - 2>();
      __syncthreads();  // this stage is full, and the one before has been read
      if (group + STAGES - 1 < groups) fill(group + STAGES - 1, (part + STAGES - 1) % GROUPS);
      copies.commit();

      uint4 vector[EIGHTS];
#pragma unroll
      for (int v = 0; v < EIGHTS; v++) vector[v] = right[stage][(vector_part + v * 8) * 4 + lane];
#pragma unroll
      for (int m = 0; m < TILES; m++) {
        uint4 upper = left[stage][(row_part + m * 16) * 4 + lane], lower = left[stage][(row_part + m * 16 + 8) * 4 + lane];
        const unsigned a[2][4] = {{upper.x, upper.y, upper.z, upper.w}, {lower.x, lower.y, lower.z, lower.w}};
#pragma unroll
        for (int v = 0; v < EIGHTS; v++) multiply_group<T>(sums[m][v], a[0], a[1], vector[v]);
      }
    }
  }

#pragma unroll
  for (int m = 0; m < TILES; m++) {
#pragma unroll
    for (int v = 0; v < EIGHTS; v++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int row = first_row + row_part + m * 16 + i / 2 * 8 + place;
        int vector = first_vector + vector_part + v * 8 + lane % 4 * 2 + i % 2;
        if (vector < vectors && row < rows) out[static_cast<size_t>(vector) * rows + row] = sums[m][v][i];
      }
    }
  }
}

}  // namespace

#define GEMM(name, T, Weights, SIDE)                                                                                 \
  extern "C" __global__ void __launch_bounds__(256) name(const void* numbers, const void* scales, const T* x,        \
                                                         float* out, int rows, int columns, int vectors) {           \
    multiply_many<T, Weights<T>, SIDE>(Weights<T>(numbers, scales), x, out, rows, columns, vectors);                 \
  }                                                                                                                  \
  EXPORT(name)
#define GEMMS(name, T, Weights)   \
  GEMM(name##_64, T, Weights, 64) \
  GEMM(name##_128, T, Weights, 128)
GEMMS(gemm_plain_bf16, bf16, Plain)
GEMMS(gemm_plain_f16, f16, Plain)
GEMMS(gemm_q8_0_bf16, bf16, EightBits)
GEMMS(gemm_q8_0_f16, f16, EightBits)
GEMMS(gemm_q4k_bf16, bf16, FourBits)
GEMMS(gemm_q4k_f16, f16, FourBits)
