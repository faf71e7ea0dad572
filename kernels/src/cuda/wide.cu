// Products of a matrix of many rows with some vectors: decoding of many texts at once. As in skinny.cu every weight is read
// once, straight from memory; but here each warp has rows of its own, and all of a block share the vectors, which would
// otherwise be more to read than the matrix. Sums are added up as there, to the bit.
#include "copies.cuh"
#include "geglu.cuh"
#include "weights.cuh"

namespace {

constexpr int WARPS = 8, THREADS = WARPS * 32;

// A block works on 128 rows, and up to 8 * EIGHTS vectors, past the last of which are zeros. If GATED, the matrix is a gate
// for each result and then an up for each; four warps work on gates and the others on their ups. Else its rows are the
// results.
template <class T, class Weights, int EIGHTS, bool GATED, class Out>
__device__ void multiply_wide(Weights weights, const T* x, Out* out, int results, int columns, int vectors) {
  let_next_start();
  // A stage is what lies in shared memory of the vectors: some slices' columns.
  constexpr int GROUPS = Weights::GROUPS, SLICES = GROUPS == 1 ? 2 : 1, STAGE_GROUPS = SLICES * GROUPS;
  constexpr int STAGES = STAGE_GROUPS == 4 ? 3 : 4, DEPTH = Weights::SHIFTED ? 2 : 4, EACH = EIGHTS * 32;
  constexpr int OWN = GATED ? WARPS / 2 : WARPS;
  SHARED(uint4, tile, [STAGES][STAGE_GROUPS * EACH]);  // [group][vector][quarter]
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32, place = lane / 4, quarter = lane % 4;
  int first_result = (blockIdx.x * OWN + warp % OWN) * 16;
  int slices = (columns + GROUPS * GROUP - 1) / (GROUPS * GROUP), chain = chain_length(slices);

  auto read_weights = [&](typename Weights::Slice* to, int slice) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int result = min(first_result + half * 8 + place, results - 1);
      to[half] = weights.read(warp < OWN ? result : results + result, columns, slice, quarter);
    }
  };
  Copies copies;
  auto fill = [&](int stage) {
#pragma unroll
    for (int i = 0; i < (STAGE_GROUPS * EACH + THREADS - 1) / THREADS; i++) {
      int at = threadIdx.x + i * THREADS, vector = at % EACH / 4;
      int column = (stage * STAGE_GROUPS + at / EACH) * GROUP + at % 4 * 8;
      bool is_there = vector < vectors && column < columns;
      if (at >= STAGE_GROUPS * EACH) break;
      copies.start(&tile[stage % STAGES][at], is_there ? x + static_cast<size_t>(vector) * columns + column : x, is_there);
    }
    copies.commit();
  };

  float sums[EIGHTS][4] = {}, totals[EIGHTS][4] = {};
  typename Weights::Slice waiting[DEPTH][2];
#pragma unroll
  for (int d = 0; d < DEPTH; d++) read_weights(waiting[d], d);
  wait_for_previous();
#pragma unroll
  for (int stage = 0; stage < STAGES - 1; stage++) fill(stage);
  int left = chain;
  for (int first = 0; first < slices; first += DEPTH) {
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      int slice = first + d, stage = slice / SLICES;
      if (slice >= slices) break;
      if (d % SLICES == 0) {
        copies.wait<STAGES - 2>();
        __syncthreads();  // this stage is full, and the one before has been read
        fill(stage + STAGES - 1);
      }
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        const uint4* numbers = &tile[stage % STAGES][(d % SLICES * GROUPS + group) * EACH + lane];
        unsigned upper[4], lower[4];
        Weights::pairs(waiting[d][0], group, upper);
        Weights::pairs(waiting[d][1], group, lower);
        const Factors factors[2] = {Weights::factors(waiting[d][0], group, slice),
                                    Weights::factors(waiting[d][1], group, slice)};
#pragma unroll
        for (int v = 0; v < EIGHTS; v++) {
          uint4 eight = numbers[v * 32];
          add_group<T, Weights>(sums[v], upper, lower, factors, eight, add_up<T, Weights>(eight));
        }
      }
      read_weights(waiting[d], slice + DEPTH);
      if (--left == 0 || slice + 1 == slices) {
        left = chain;
#pragma unroll
        for (int v = 0; v < EIGHTS; v++) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            totals[v][i] += sums[v][i];
            sums[v][i] = 0.0f;
          }
        }
      }
    }
  }

  float* ups = reinterpret_cast<float*>(tile) + warp % OWN * (EIGHTS * 128) + lane;  // [warp][vectors][number][lane]
  if constexpr (GATED) {
    copies.wait<0>();
    __syncthreads();  // the vectors have been read
#pragma unroll
    for (int v = 0; v < EIGHTS; v++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        if (warp >= OWN) ups[(v * 4 + i) * 32] = totals[v][i];
      }
    }
    __syncthreads();
    if (warp >= OWN) return;
  }
#pragma unroll
  for (int v = 0; v < EIGHTS; v++) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      int result = first_result + i / 2 * 8 + place, vector = v * 8 + quarter * 2 + i % 2;
      float sum = totals[v][i];
      if constexpr (GATED) sum = geglu(sum, ups[(v * 4 + i) * 32]);
      if (result < results && vector < vectors) {
        out[static_cast<size_t>(vector) * results + result] = from_float<Out>(sum);
      }
    }
  }
}

}  // namespace

// Two blocks at a time, where registers are enough for that without many being spilt; 0 leaves it to the compiler.
#define WIDE(name, T, Weights, EIGHTS, GATED, Out)                                                                 \
  extern "C" __global__ void __launch_bounds__(256, EIGHTS == 4 && !Weights<T>::SHIFTED ? 2 : 0)                   \
      name(const void* numbers, const void* scales, const T* x, Out* out, int results, int columns, int vectors) { \
    multiply_wide<T, Weights<T>, EIGHTS, GATED>(Weights<T>(numbers, scales), x, out, results, columns, vectors);   \
  }                                                                                                                \
  EXPORT(name)
#define WIDES(name, T, Weights)                          \
  WIDE(wide_##name##_32, T, Weights, 4, false, float)    \
  WIDE(wide_##name##_64, T, Weights, 8, false, float)    \
  WIDE(wide_geglu_##name##_32, T, Weights, 4, true, T)   \
  WIDE(wide_geglu_##name##_64, T, Weights, 8, true, T)
WIDES(plain_bf16, bf16, Plain)
WIDES(plain_f16, f16, Plain)
WIDES(q8_0_bf16, bf16, EightBits)
WIDES(q8_0_f16, f16, EightBits)
WIDES(q4k_bf16, bf16, FourBits)
WIDES(q4k_f16, f16, FourBits)
