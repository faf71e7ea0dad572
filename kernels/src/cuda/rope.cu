// Turns queries and keys by their positions, and puts keys and values into pages. The angles' cosines and sines are f32:
// computed in bf16 they would be wrong from position 256 on.
#include "paged.cuh"

namespace {

constexpr int HALF = HEAD / 2;

// Blocks: [row][head]; a thread for each of 128 pairs. A row holds its queries, keys and values;
// queries are turned where they are. `angles` has a head's cosines and then its sines for each position.
template <class T>
__device__ void rope(float* rows, const float* angles, T* pool, const Paged& paged, int angle_rows, int heads,
                     int kv_heads) {
  begin_kernel();
  int row = blockIdx.x, head = blockIdx.y, pair = threadIdx.x, position = paged.positions[row];
  if (position < 0) return;
  if (position >= angle_rows) __trap();
  float* x = rows + (static_cast<size_t>(row) * (heads + 2 * kv_heads) + head) * HEAD;
  float first = x[pair], second = x[pair + HALF];
  if (head < heads + kv_heads) {
    const float* angle = angles + static_cast<size_t>(position) * HEAD;
    float cosine = angle[pair], sine = angle[pair + HALF];
    float turned = first * cosine - second * sine;
    second = second * cosine + first * sine;
    first = turned;
  }
  if (head < heads) {
    x[pair] = first;
    x[pair + HALF] = second;
    return;
  }
  // A layer's keys, head after head, and then its values.
  size_t at = token_offset(paged, paged.slots[row], position) + static_cast<size_t>(head - heads) * PAGE_TOKENS * HEAD;
  pool[at + pair] = from_float<T>(first);
  pool[at + pair + HALF] = from_float<T>(second);
}

}  // namespace

#define ROPE(name, T)                                                                                             \
  extern "C" __global__ void __launch_bounds__(128) name(float* rows, const float* angles, T* pool,               \
                                                         PAGED_PARAMETERS, int angle_rows, int heads,             \
                                                         int kv_heads) {                                          \
    rope(rows, angles, pool, PAGED_ARGUMENTS, angle_rows, heads, kv_heads);                                       \
  }                                                                                                               \
  EXPORT(name)
ROPE(rope_bf16, bf16)
ROPE(rope_f16, f16)
