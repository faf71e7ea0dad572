// Causal attention of many tokens of several texts, on tensor cores, over pages. Each query goes through its text from
// the first page on, whatever else is in the batch, so a prompt gives the same bits at once or in pieces.
#include "mma.cuh"
#include "paged.cuh"

namespace {

constexpr int ROWS = 64, WARPS = 4, CHUNKS = HEAD / 8;  // a chunk is 16 bytes
constexpr int TILES = PAGE_TOKENS / 8;                  // of scores

// Chunks of eight rows must not lie in the same banks.
__device__ __forceinline__ int place(int row, int chunk) { return row * CHUNKS + (chunk ^ (row & 7)); }

// Blocks: [64 queries, the last first, as they have most to see][key head][text]. Query r of a text is its token r / sharing, head r % sharing of those that
// share the key head. The rows of text t are from starts[t] to starts[t + 1], at consecutive positions.
template <class T>
__device__ void attend(const float* queries, const T* pool, const Paged& paged, const int* starts, T* out, int rows,
                       int heads, int kv_heads, float scale) {
  begin_kernel();
  int kv_head = blockIdx.y, sharing = heads / kv_heads, thread = threadIdx.x, warp = thread / 32, lane = thread & 31;
  int first = starts[blockIdx.z], beyond = starts[blockIdx.z + 1];
  if (first < 0 || beyond > rows) __trap();
  int total = (beyond - first) * sharing, begin = (gridDim.x - 1 - blockIdx.x) * ROWS;
  if (begin >= total) return;
  int slot = paged.slots[first], position = paged.positions[first];
  if (position < 0) __trap();
  SHARED_DYN(uint4, shared);
  uint4 *query_tile = shared, *keys = query_tile + ROWS * CHUNKS, *values = keys + PAGE_TOKENS * CHUNKS;

  auto row_of = [&](int query) {
    return static_cast<size_t>(first + query / sharing) * heads + kv_head * sharing + query % sharing;
  };
  for (int i = thread; i < ROWS * CHUNKS; i += WARPS * 32) {
    int row = i / CHUNKS, chunk = i % CHUNKS, query = begin + row;
    float numbers[8] = {};
    if (query < total) {
      size_t token = first + query / sharing, head = kv_head * sharing + query % sharing;
      load8(queries + (token * (heads + 2 * kv_heads) + head) * HEAD + chunk * 8, numbers);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) numbers[k] *= scale;
    store8(reinterpret_cast<T*>(query_tile + place(row, chunk)), numbers);
  }

  // Each lane has numbers of two queries, eight apart. Those behind the last one see nothing.
  int query[2], sees[2];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    query[i] = begin + warp * 16 + lane / 4 + i * 8;
    sees[i] = query[i] < total ? position + query[i] / sharing : -1;
  }
  float largest[2] = {-INFINITY, -INFINITY}, weights[2] = {0.0f, 0.0f}, sums[CHUNKS][4];
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) sums[c][0] = sums[c][1] = sums[c][2] = sums[c][3] = 0.0f;

  int end = position + (min(total, begin + ROWS) - 1) / sharing + 1;
  for (int page = 0; page < end; page += PAGE_TOKENS) {
    __syncthreads();  // the page before has been read
    size_t at = token_offset(paged, slot, page) + static_cast<size_t>(kv_head) * PAGE_TOKENS * HEAD;
    const uint4* from = reinterpret_cast<const uint4*>(pool + at);
    for (int i = thread; i < PAGE_TOKENS * CHUNKS; i += WARPS * 32) {
      int token = i / CHUNKS, to = place(token, i % CHUNKS);
      // What is behind the last token is not of this sequence, and might be NaN.
      bool is_there = page + token < end;
      keys[to] = is_there ? from[i] : make_uint4(0, 0, 0, 0);
      values[to] = is_there ? from[i + kv_heads * PAGE_TOKENS * CHUNKS] : make_uint4(0, 0, 0, 0);
    }
    __syncthreads();

    float scores[TILES][4] = {};
#pragma unroll
    for (int step = 0; step < HEAD / 16; step++) {
      unsigned a[4], b[4];
      load_matrices<false>(a, query_tile + place(warp * 16 + (lane & 15), step * 2 + lane / 16));
#pragma unroll
      for (int tile = 0; tile < TILES; tile += 2) {
        load_matrices<false>(b, keys + place(tile * 8 + lane / 16 * 8 + (lane & 7), step * 2 + (lane / 8 & 1)));
        multiply<T>(scores[tile], a, b);
        multiply<T>(scores[tile + 1], a, b + 2);
      }
    }

    float correction[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float most = largest[i];
#pragma unroll
      for (int n = 0; n < TILES * 2; n++) {
        float& score = scores[n / 2][2 * i + n % 2];
        if (page + n / 2 * 8 + lane % 4 * 2 + n % 2 > sees[i]) score = -INFINITY;
        most = fmaxf(most, score);
      }
      most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 1));
      most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, 2));
      // Nothing seen at all: no difference of infinities.
      float from_here = most == -INFINITY ? 0.0f : most;
      correction[i] = __expf(largest[i] - from_here);
      largest[i] = most;
      weights[i] *= correction[i];
#pragma unroll
      for (int n = 0; n < TILES * 2; n++) {
        float& score = scores[n / 2][2 * i + n % 2];
        score = __expf(score - from_here);
        weights[i] += score;
      }
    }
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      sums[c][0] *= correction[0];
      sums[c][1] *= correction[0];
      sums[c][2] *= correction[1];
      sums[c][3] *= correction[1];
    }
#pragma unroll
    for (int step = 0; step < PAGE_TOKENS / 16; step++) {
      const float *left = scores[2 * step], *right = scores[2 * step + 1];
      const unsigned a[4] = {pack2<T>(left[0], left[1]), pack2<T>(left[2], left[3]), pack2<T>(right[0], right[1]),
                             pack2<T>(right[2], right[3])};
#pragma unroll
      for (int c = 0; c < CHUNKS; c += 2) {
        unsigned b[4];
        load_matrices<true>(b, values + place(step * 16 + (lane & 15), c + lane / 16));
        multiply<T>(sums[c], a, b);
        multiply<T>(sums[c + 1], a, b + 2);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 2; i++) {
    float weight = weights[i];
    weight += __shfl_xor_sync(ALL_LANES, weight, 1);
    weight += __shfl_xor_sync(ALL_LANES, weight, 2);
    if (query[i] >= total) continue;
    T* to = out + row_of(query[i]) * HEAD + lane % 4 * 2;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      to[c * 8] = from_float<T>(sums[c][2 * i] / weight);
      to[c * 8 + 1] = from_float<T>(sums[c][2 * i + 1] / weight);
    }
  }
}

}  // namespace

#define ATTEND(name, T)                                                                                         \
  extern "C" __global__ void __launch_bounds__(128) name(const float* queries, const T* pool, PAGED_PARAMETERS, \
                                                         const int* starts, T* out, int rows, int heads,        \
                                                         int kv_heads, float scale) {                           \
    attend<T>(queries, pool, PAGED_ARGUMENTS, starts, out, rows, heads, kv_heads, scale);                       \
  }                                                                                                             \
  EXPORT(name)
ATTEND(prefill_bf16, bf16)
ATTEND(prefill_f16, f16)
