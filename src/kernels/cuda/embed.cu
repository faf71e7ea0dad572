// What each token means by itself: its row of the embedding, times a factor. A block for each row.
#include "common.cuh"

namespace {

template <class Read>
__device__ void embed(Read read, const unsigned* ids, const int* positions, float* stream, int vocabulary, int width,
                      float factor) {
  bool in_use = positions[blockIdx.x] >= 0;
  unsigned id = in_use ? ids[blockIdx.x] : 0;
  if (id >= static_cast<unsigned>(vocabulary)) __trap();
  size_t from = static_cast<size_t>(id) * width, to = static_cast<size_t>(blockIdx.x) * width;
  for (int i = threadIdx.x; i < width; i += blockDim.x) stream[to + i] = in_use ? read(from + i) * factor : 0.0f;
}

}  // namespace

#define EMBED(name, T)                                                                                            \
  extern "C" __global__ void __launch_bounds__(1024) name(const T* table, const unsigned* ids,                    \
                                                          const int* positions, float* stream, int vocabulary,    \
                                                          int width, float factor) {                              \
    embed([=](size_t i) { return to_float(table[i]); }, ids, positions, stream, vocabulary, width, factor);       \
  }                                                                                                               \
  EXPORT(name)
EMBED(embed_bf16, bf16)
EMBED(embed_f16, f16)

// Rows are whole groups of 32 that share a scale.
extern "C" __global__ void __launch_bounds__(1024) embed_q8_0(const signed char* quants, const f16* scales,
                                                              const unsigned* ids, const int* positions, float* stream,
                                                              int vocabulary, int width, float factor) {
  auto read = [=](size_t i) { return to_float(scales[i / 32]) * static_cast<float>(quants[i]); };
  embed(read, ids, positions, stream, vocabulary, width, factor);
}
EXPORT(embed_q8_0)
