// Products of a matrix with many vectors, which is what reading a prompt is: tensor cores, fed from tiles in shared memory
// that are filled while others are worked on. Quantized weights are rounded to the vectors' type on their way. Sums are
// f32, from the first column to the last, whatever else is in the batch and however large the tiles are.
#include "copies.cuh"
#include "geglu.cuh"
#include "weights.cuh"

namespace {

constexpr int WARPS = 8, THREADS = WARPS * 32, STAGES = 3;

// How a tile's rows of weights get into shared memory, a group of columns at a time.
template <class T, class Weights, int ROWS>
struct Relay {
  static constexpr int EACH = ROWS * 4 / THREADS;  // quarters of a group for each thread
  typename Weights::Slice slices[EACH], next[EACH];

  // Sends for the next slice.
  template <class RowOf>
  __device__ __forceinline__ void read(const Weights& weights, int columns, int slice, RowOf row_of) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int at = threadIdx.x + i * THREADS;
      next[i] = weights.read(max(row_of(at / 4), 0), columns, slice, at % 4);
    }
  }
  // What was sent for is there.
  __device__ __forceinline__ void advance() {
#pragma unroll
    for (int i = 0; i < EACH; i++) slices[i] = next[i];
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

// Numbers as they are need no registers on their way. `row_of` tells which row belongs at a place of the tile, or none: -1.
template <int COUNT, class T, class RowOf>
__device__ __forceinline__ void copy(Copies& copies, uint4* to, const T* from, int columns, int group, RowOf row_of) {
#pragma unroll
  for (int i = 0; i < COUNT * 4 / THREADS; i++) {
    int at = threadIdx.x + i * THREADS, row = row_of(at / 4), column = group * GROUP + at % 4 * 8;
    bool is_there = row >= 0 && column < columns;
    copies.start(to + at, is_there ? from + static_cast<size_t>(row) * columns + column : from, is_there);
  }
}

// Blocks: [SIDE vectors][SIDE rows of the matrix], so that those that run at the same time share rows. The warps make two
// rows of four parts of the tile. If GATED, the matrix is a gate for each result and then an up for each; the upper half of
// each part is gates, and the lower half their ups. Else its rows are the results.
template <class T, class Weights, int SIDE, bool GATED, class Out>
__device__ void multiply_many(Weights weights, const T* x, Out* out, int results, int columns, int vectors) {
  let_next_start();
  constexpr int GROUPS = Weights::GROUPS, TILES = SIDE / 2 / 16, EIGHTS = SIDE / 4 / 8, PART = SIDE / 2;
  constexpr int OWN = GATED ? PART / 2 : PART;  // results of a part
  // A stage is as many groups of columns as there is room for, and a slice is that many stages.
  constexpr int WIDTH = SIDE == 64 ? 2 : 1, STEPS = GROUPS > WIDTH ? GROUPS / WIDTH : 1;
  SHARED(uint4, left, [STAGES][WIDTH * SIDE * 4]);   // rows, [group][row][quarter]
  SHARED(uint4, right, [STAGES][WIDTH * SIDE * 4]);  // vectors
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32, place = lane / 4;
  int first_vector = blockIdx.x * SIDE, first_result = blockIdx.y * (2 * OWN);
  int row_part = warp / 4, vector_part = warp % 4 * (SIDE / 4);
  int stages = (columns + WIDTH * GROUP - 1) / (WIDTH * GROUP);
  auto row_of = [=](int at) {
    int result = first_result + at / PART * OWN + at % OWN;
    return result >= results ? -1 : at % PART < OWN ? result : results + result;
  };
  auto vector_of = [=](int at) { return first_vector + at < vectors ? first_vector + at : -1; };
  Copies copies;
  Relay<T, Weights, SIDE> relay;
  if constexpr (Weights::SCALED) relay.read(weights, columns, 0, row_of);

  // Fills a stage. `step` is its place in its slice, which the compiler knows.
  auto fill_rows = [&](int stage, int step) {
#pragma unroll
    for (int g = 0; g < WIDTH; g++) {
      int group = stage * WIDTH + g, part = (step * WIDTH + g) % GROUPS;
      uint4* to = left[stage % STAGES] + g * SIDE * 4;
      if constexpr (Weights::SCALED) {
        if (part == 0) {
          relay.advance();
          relay.read(weights, columns, group / GROUPS + 1, row_of);
        }
        relay.write(to, group / GROUPS, part);
      } else {
        copy<SIDE>(copies, to, weights.numbers, columns, group, row_of);
      }
    }
  };
  auto fill_vectors = [&](int stage) {
#pragma unroll
    for (int g = 0; g < WIDTH; g++) {
      copy<SIDE>(copies, right[stage % STAGES] + g * SIDE * 4, x, columns, stage * WIDTH + g, vector_of);
    }
  };

  float sums[TILES][EIGHTS][4] = {};
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) fill_rows(stage, stage % STEPS);
  wait_for_previous();
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) {
    fill_vectors(stage);
    copies.commit();
  }
  for (int first = 0; first < stages; first += STEPS) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      int stage = first + step, ahead = stage + STAGES - 1;
      if (stage >= stages) break;
      copies.wait<STAGES - 2>();
      __syncthreads();  // this stage is full, and the one before has been read
      if (ahead < stages) {
        fill_rows(ahead, (step + STAGES - 1) % STEPS);
        fill_vectors(ahead);
      }
      copies.commit();
#pragma unroll
      for (int g = 0; g < WIDTH; g++) {
        const uint4* rows = left[stage % STAGES] + (g * SIDE + row_part * PART) * 4 + lane;
        const uint4* numbers = right[stage % STAGES] + (g * SIDE + vector_part) * 4 + lane;
        uint4 vector[EIGHTS];
#pragma unroll
        for (int v = 0; v < EIGHTS; v++) vector[v] = numbers[v * 32];
#pragma unroll
        for (int m = 0; m < TILES; m++) {
          uint4 upper = rows[m * 64], lower = rows[m * 64 + 32];
          const unsigned a[2][4] = {{upper.x, upper.y, upper.z, upper.w}, {lower.x, lower.y, lower.z, lower.w}};
#pragma unroll
          for (int v = 0; v < EIGHTS; v++) multiply_group<T>(sums[m][v], a[0], a[1], vector[v]);
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < OWN / 16; m++) {
#pragma unroll
    for (int v = 0; v < EIGHTS; v++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int result = first_result + row_part * OWN + m * 16 + i / 2 * 8 + place;
        int vector = first_vector + vector_part + v * 8 + lane % 4 * 2 + i % 2;
        float sum = sums[m][v][i];
        if constexpr (GATED) sum = geglu(sum, sums[m + OWN / 16][v][i]);
        if (vector < vectors && result < results) {
          out[static_cast<size_t>(vector) * results + result] = from_float<Out>(sum);
        }
      }
    }
  }
}

}  // namespace

#define GEMM(name, T, Weights, SIDE, GATED, Out)                                                                     \
  extern "C" __global__ void __launch_bounds__(256) name(const void* numbers, const void* scales, const T* x,        \
                                                         Out* out, int results, int columns, int vectors) {          \
    multiply_many<T, Weights<T>, SIDE, GATED>(Weights<T>(numbers, scales), x, out, results, columns, vectors);       \
  }                                                                                                                  \
  EXPORT(name)
#define GEMMS(name, T, Weights)                            \
  GEMM(gemm_##name##_64, T, Weights, 64, false, float)     \
  GEMM(gemm_##name##_128, T, Weights, 128, false, float)   \
  GEMM(gemm_geglu_##name##_64, T, Weights, 64, true, T)    \
  GEMM(gemm_geglu_##name##_128, T, Weights, 128, true, T)
GEMMS(plain_bf16, bf16, Plain)
GEMMS(plain_f16, f16, Plain)
GEMMS(q8_0_bf16, bf16, EightBits)
GEMMS(q8_0_f16, f16, EightBits)
GEMMS(q4k_bf16, bf16, FourBits)
GEMMS(q4k_f16, f16, FourBits)
