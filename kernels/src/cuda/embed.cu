// What each token means by itself: its row of the embedding, times a factor. A block for each row, a thread for each quarter
// of a slice.
#include "weights.cuh"

namespace {

template <class T, class Weights>
__device__ void embed(Weights table, const unsigned* ids, const int* positions, float* stream, int vocabulary, int width,
                      float factor) {
  begin_kernel();
  bool in_use = positions[blockIdx.x] >= 0;
  unsigned id = in_use ? ids[blockIdx.x] : 0;
  if (id >= static_cast<unsigned>(vocabulary)) __trap();
  float* to = stream + static_cast<size_t>(blockIdx.x) * width;
  for (int slice = threadIdx.x / 4; slice * Weights::GROUPS * GROUP < width; slice += blockDim.x / 4) {
    int quarter = threadIdx.x % 4;
    typename Weights::Slice numbers = table.read(static_cast<int>(id), width, slice, quarter);
#pragma unroll
    for (int group = 0; group < Weights::GROUPS; group++) {
      int column = (slice * Weights::GROUPS + group) * GROUP + quarter * 8;
      if (column >= width) continue;
      float eight[8];
      read8<T, Weights>(numbers, group, slice, eight);
#pragma unroll
      for (int k = 0; k < 8; k++) eight[k] = in_use ? eight[k] * factor : 0.0f;
      store8(to + column, eight);
    }
  }
}

}  // namespace

#define EMBED(name, T, Weights)                                                                                     \
  extern "C" __global__ void __launch_bounds__(1024) name(const void* numbers, const void* scales,                  \
                                                          const unsigned* ids, const int* positions, float* stream, \
                                                          int vocabulary, int width, float factor) {                \
    embed<T>(Weights<T>(numbers, scales), ids, positions, stream, vocabulary, width, factor);                       \
  }                                                                                                                 \
  EXPORT(name)
EMBED(embed_plain_bf16, bf16, Plain)
EMBED(embed_plain_f16, f16, Plain)
EMBED(embed_q8_0_bf16, bf16, EightBits)
EMBED(embed_q8_0_f16, f16, EightBits)
EMBED(embed_q4k_bf16, bf16, FourBits)
EMBED(embed_q4k_f16, f16, FourBits)
