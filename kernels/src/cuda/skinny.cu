// Products of a matrix with a few vectors, which is what decoding is: tensor cores, fed straight from memory, so that every
// weight is read once for up to 64 vectors. Sums are f32, in an order that does not depend on how many vectors there are.
#include "geglu.cuh"
#include "weights.cuh"

namespace {

constexpr int WARPS = CHAINS;

// A block works on 16 * TILES rows, and up to 8 * EIGHTS vectors. A warp has a chain of each row, and what they make is
// added up in the end. Rows past the last repeat it, vectors past the last are zeros; nothing of them is written. If GATED,
// the matrix is a gate for each result and then an up for each, of which a block has as many; else its rows are the results.
template <class T, class Weights, int TILES, int EIGHTS, bool GATED, class Out>
__device__ void multiply_few(Weights weights, const T* x, Out* out, int results, int columns, int vectors) {
  let_next_start();
  constexpr int GROUPS = Weights::GROUPS, OWN = GATED ? TILES / 2 : TILES;
  // What is on its way: slices of the matrix, and whether the next numbers of the vectors are. Registers limit both.
  constexpr int DEPTH = TILES == 1 && !Weights::SHIFTED ? 4 : 2;
  constexpr bool AHEAD = EIGHTS * TILES * (Weights::SCALED + 1) <= 8;
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32, place = lane / 4, quarter = lane % 4;
  int first_result = blockIdx.x * (16 * OWN), slices = (columns + GROUPS * GROUP - 1) / (GROUPS * GROUP);
  int begin = warp * chain_length(slices), end = min(begin + chain_length(slices), slices);

  auto read_weights = [&](typename Weights::Slice(*to)[2], int slice) {
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int result = min(first_result + m % OWN * 16 + half * 8 + place, results - 1);
        to[m][half] = weights.read(m < OWN ? result : results + result, columns, slice, quarter);
      }
    }
  };
  auto read_vectors = [&](uint4* to, int slice, int group) {
    int column = (slice * GROUPS + group) * GROUP + quarter * 8;
#pragma unroll
    for (int v = 0; v < EIGHTS; v++) {
      int vector = v * 8 + place;
      to[v] = make_uint4(0, 0, 0, 0);
      if (vector < vectors && column < columns) {
        to[v] = *reinterpret_cast<const uint4*>(x + static_cast<size_t>(vector) * columns + column);
      }
    }
  };

  float sums[TILES][EIGHTS][4] = {};
  typename Weights::Slice waiting[DEPTH][TILES][2];
  uint4 now[EIGHTS], next[AHEAD ? EIGHTS : 1];
#pragma unroll
  for (int d = 0; d < DEPTH; d++) read_weights(waiting[d], max(min(begin + d, end - 1), 0));
  wait_for_previous();
  if constexpr (AHEAD) read_vectors(now, begin, 0);
  for (int first = begin; first < end; first += DEPTH) {
#pragma unroll
    for (int d = 0; d < DEPTH; d++) {
      int slice = first + d;
      if (slice >= end) break;
#pragma unroll
      for (int group = 0; group < GROUPS; group++) {
        if constexpr (AHEAD) {
          // Beyond the end of the chain it is the next one's, and not used.
          read_vectors(next, group + 1 < GROUPS ? slice : slice + 1, (group + 1) % GROUPS);
        } else {
          read_vectors(now, slice, group);
        }
        unsigned numbers[TILES][2][4];
        Factors factors[TILES][2];
#pragma unroll
        for (int m = 0; m < TILES; m++) {
#pragma unroll
          for (int half = 0; half < 2; half++) {
            Weights::pairs(waiting[d][m][half], group, numbers[m][half]);
            factors[m][half] = Weights::factors(waiting[d][m][half], group, slice);
          }
        }
#pragma unroll
        for (int v = 0; v < EIGHTS; v++) {
          Totals totals = add_up<T, Weights>(now[v]);
#pragma unroll
          for (int m = 0; m < TILES; m++) {
            add_group<T, Weights>(sums[m][v], numbers[m][0], numbers[m][1], factors[m], now[v], totals);
          }
        }
        if constexpr (AHEAD) {
#pragma unroll
          for (int v = 0; v < EIGHTS; v++) now[v] = next[v];
        }
      }
      // Where several wait, two at a time: with the one before they are a whole line of memory.
      if (DEPTH > 2 && d % 2 == 1 && slice - 1 + DEPTH < end) read_weights(waiting[d - 1], slice - 1 + DEPTH);
      if ((DEPTH == 2 || d % 2 == 1) && slice + DEPTH < end) read_weights(waiting[d], slice + DEPTH);
    }
  }

  constexpr int NUMBERS = OWN * 128;  // results for eight vectors
  SHARED(float, partial, [WARPS][TILES * 128]);
#pragma unroll
  for (int v = 0; v < EIGHTS; v++) {
    if (v) __syncthreads();  // the sums of the eight before have been read
#pragma unroll
    for (int m = 0; m < TILES; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) partial[warp][(m * 4 + i) * 32 + lane] = sums[m][v][i];
    }
    __syncthreads();
    for (int number = threadIdx.x; number < NUMBERS; number += WARPS * 32) {
      float sum = partial[0][number], up = GATED ? partial[0][NUMBERS + number] : 0.0f;
#pragma unroll
      for (int w = 1; w < WARPS; w++) {
        sum += partial[w][number];
        if (GATED) up += partial[w][NUMBERS + number];
      }
      int from = number % 32, i = number / 32 % 4;
      int result = first_result + number / 128 * 16 + i / 2 * 8 + from / 4, vector = v * 8 + from % 4 * 2 + i % 2;
      if (result < results && vector < vectors) {
        out[static_cast<size_t>(vector) * results + result] = from_float<Out>(GATED ? geglu(sum, up) : sum);
      }
    }
  }
}

}  // namespace

// Two blocks at a time, where registers are enough for that without many being spilt; 0 leaves it to the compiler.
#define SKINNY(name, T, Weights, TILES, EIGHTS, GATED, Out)                                                            \
  extern "C" __global__ void __launch_bounds__(256, EIGHTS <= (Weights<T>::SHIFTED ? 1 : 2) ? 2 : 0)                   \
      name(const void* numbers, const void* scales, const T* x, Out* out, int results, int columns, int vectors) {     \
    multiply_few<T, Weights<T>, TILES, EIGHTS, GATED>(Weights<T>(numbers, scales), x, out, results, columns, vectors); \
  }                                                                                                                    \
  EXPORT(name)
// The more vectors, the more rows share what is read of them.
#define SKINNIES(name, T, Weights)                                 \
  SKINNY(skinny_##name##_8, T, Weights, 1, 1, false, float)        \
  SKINNY(skinny_##name##_16, T, Weights, 1, 2, false, float)       \
  SKINNY(skinny_##name##_32, T, Weights, 2, 4, false, float)       \
  SKINNY(skinny_##name##_64, T, Weights, 2, 8, false, float)       \
  SKINNY(skinny_geglu_##name##_8, T, Weights, 2, 1, true, T)       \
  SKINNY(skinny_geglu_##name##_16, T, Weights, 2, 2, true, T)      \
  SKINNY(skinny_geglu_##name##_32, T, Weights, 2, 4, true, T)      \
  SKINNY(skinny_geglu_##name##_64, T, Weights, 2, 8, true, T)
SKINNIES(plain_bf16, bf16, Plain)
SKINNIES(plain_f16, f16, Plain)
SKINNIES(q8_0_bf16, bf16, EightBits)
SKINNIES(q8_0_f16, f16, EightBits)
SKINNIES(q4k_bf16, bf16, FourBits)
SKINNIES(q4k_f16, f16, FourBits)
