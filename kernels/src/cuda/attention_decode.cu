// Attention of one token of each text over its pages: split along the text, so that one text fills a device, then
// combined. Sums are f32. How a text is split depends on nothing but its length and the number of splits, so a text
// gets the same bits in any batch.
#include "paged.cuh"

namespace {

constexpr int WARPS = 4, PER_LANE = HEAD / 32;
constexpr int AHEAD = 4;  // tokens of a warp that are read together

// Tokens of a split: whole pages, two at least.
__device__ __forceinline__ int split_tokens(int length, int splits) {
  int tokens = (length + splits - 1) / splits;
  return max(2 * PAGE_TOKENS, (tokens + PAGE_TOKENS - 1) / PAGE_TOKENS * PAGE_TOKENS);
}

// Of one query head, so far.
struct Softmax {
  float largest, total;
};

// Blocks: [split][key head][row]. SHARING query heads look at each key head. Warps take every fourth token.
template <class T, int SHARING>
__device__ void attend(const float* queries, const T* pool, const Paged& paged, float* partial_sums,
                       float2* partial_weights, int kv_heads, float scale) {
  begin_kernel();
  int split = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z, warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  int length = paged.positions[row] + 1, tokens = split_tokens(length, gridDim.x);
  int begin = split * tokens, end = min(length, begin + tokens);
  if (begin >= end) return;
  int slot = paged.slots[row], heads = kv_heads * SHARING;
  const float* query = queries + (static_cast<size_t>(row) * (heads + 2 * kv_heads) + kv_head * SHARING) * HEAD;
  float q[SHARING][PER_LANE], sums[SHARING][PER_LANE];
  Softmax softmax[SHARING];
#pragma unroll
  for (int g = 0; g < SHARING; g++) {
    load8(query + g * HEAD + lane * PER_LANE, q[g]);
    softmax[g] = {-INFINITY, 0.0f};
#pragma unroll
    for (int i = 0; i < PER_LANE; i++) {
      q[g][i] *= scale;
      sums[g][i] = 0.0f;
    }
  }
  for (int page = begin; page < end; page += PAGE_TOKENS) {
    size_t at = token_offset(paged, slot, page) + static_cast<size_t>(kv_head) * PAGE_TOKENS * HEAD;
    const uint4* keys = reinterpret_cast<const uint4*>(pool + at) + lane;
    const uint4* values = keys + static_cast<size_t>(kv_heads) * PAGE_TOKENS * (HEAD / PER_LANE);
    for (int first = warp; first < PAGE_TOKENS && page + first < end; first += WARPS * AHEAD) {
      // All on their way before the first is needed.
      uint4 packed_keys[AHEAD], packed_values[AHEAD];
#pragma unroll
      for (int t = 0; t < AHEAD; t++) {
        // The last token again, behind it.
        int token = min(first + t * WARPS, end - 1 - page);
        packed_keys[t] = keys[token * (HEAD / PER_LANE)];
        packed_values[t] = values[token * (HEAD / PER_LANE)];
      }
#pragma unroll
      for (int t = 0; t < AHEAD; t++) {
        if (page + first + t * WARPS >= end) break;
        float key[PER_LANE], value[PER_LANE], score[SHARING];
        unpack8<T>(packed_keys[t], key);
        unpack8<T>(packed_values[t], value);
#pragma unroll
        for (int g = 0; g < SHARING; g++) {
          score[g] = 0.0f;
#pragma unroll
          for (int i = 0; i < PER_LANE; i++) score[g] = fmaf(q[g][i], key[i], score[g]);
        }
        float mine = warp_sums<SHARING>(score);
#pragma unroll
        for (int g = 0; g < SHARING; g++) score[g] = __shfl_sync(ALL_LANES, mine, g * (32 / SHARING));
#pragma unroll
        for (int g = 0; g < SHARING; g++) {
          float largest = fmaxf(softmax[g].largest, score[g]);
          float correction = __expf(softmax[g].largest - largest), weight = __expf(score[g] - largest);
          softmax[g] = {largest, fmaf(softmax[g].total, correction, weight)};
#pragma unroll
          for (int i = 0; i < PER_LANE; i++) sums[g][i] = fmaf(sums[g][i], correction, weight * value[i]);
        }
      }
    }
  }
  // [warp][head][number], and then a Softmax for each warp and head.
  SHARED_DYN(float, shared);
  Softmax* all = reinterpret_cast<Softmax*>(shared + WARPS * SHARING * HEAD);
#pragma unroll
  for (int g = 0; g < SHARING; g++) {
    store8(shared + (warp * SHARING + g) * HEAD + lane * PER_LANE, sums[g]);
    if (lane == 0) all[warp * SHARING + g] = softmax[g];
  }
  __syncthreads();
  for (int g = warp; g < SHARING; g += WARPS) {
    float largest = -INFINITY, total = 0.0f, factor[WARPS];
    for (int w = 0; w < WARPS; w++) largest = fmaxf(largest, all[w * SHARING + g].largest);
    for (int w = 0; w < WARPS; w++) {
      factor[w] = __expf(all[w * SHARING + g].largest - largest);
      total = fmaf(factor[w], all[w * SHARING + g].total, total);
    }
    size_t head = static_cast<size_t>(row) * heads + kv_head * SHARING + g, to = head * gridDim.x + split;
    for (int d = lane; d < HEAD; d += 32) {
      float sum = 0.0f;
      for (int w = 0; w < WARPS; w++) sum = fmaf(factor[w], shared[(w * SHARING + g) * HEAD + d], sum);
      partial_sums[to * HEAD + d] = sum;
    }
    if (lane == 0) partial_weights[to] = make_float2(largest, total);
  }
}

// Blocks: [query head][row], a thread for each number. Rows that are not in use become zeros.
template <class Out>
__device__ void combine(const float* partial_sums, const float2* partial_weights, const int* positions, Out* out,
                        int splits) {
  begin_kernel();
  int row = blockIdx.y, length = positions[row] + 1;
  size_t head = static_cast<size_t>(row) * gridDim.x + blockIdx.x;
  float largest = -INFINITY, total = 0.0f, sum = 0.0f;
  if (length > 0) {
    int tokens = split_tokens(length, splits), count = (length + tokens - 1) / tokens;
    const float2* weights = partial_weights + head * splits;
    const float* sums = partial_sums + head * splits * HEAD;
    for (int i = 0; i < count; i++) largest = fmaxf(largest, weights[i].x);
    for (int i = 0; i < count; i++) {
      float factor = __expf(weights[i].x - largest);
      total = fmaf(factor, weights[i].y, total);
      sum = fmaf(factor, sums[static_cast<size_t>(i) * HEAD + threadIdx.x], sum);
    }
    sum /= total;
  }
  out[head * HEAD + threadIdx.x] = from_float<Out>(sum);
}

}  // namespace

#define ATTEND(name, T, SHARING)                                                                                \
  extern "C" __global__ void __launch_bounds__(128) name(const float* queries, const T* pool, PAGED_PARAMETERS, \
                                                         float* partial_sums, float2* partial_weights,          \
                                                         int kv_heads, float scale) {                           \
    attend<T, SHARING>(queries, pool, PAGED_ARGUMENTS, partial_sums, partial_weights, kv_heads, scale);         \
  }                                                                                                             \
  EXPORT(name)
ATTEND(attend_bf16_1, bf16, 1)
ATTEND(attend_bf16_2, bf16, 2)
ATTEND(attend_bf16_4, bf16, 4)
ATTEND(attend_bf16_8, bf16, 8)
ATTEND(attend_f16_1, f16, 1)
ATTEND(attend_f16_2, f16, 2)
ATTEND(attend_f16_4, f16, 4)
ATTEND(attend_f16_8, f16, 8)

#define COMBINE(name, Out)                                                                                         \
  extern "C" __global__ void __launch_bounds__(256) name(const float* partial_sums, const float2* partial_weights, \
                                                         const int* positions, Out* out, int splits) {             \
    combine(partial_sums, partial_weights, positions, out, splits);                                                \
  }                                                                                                                \
  EXPORT(name)
COMBINE(combine_bf16, bf16)
COMBINE(combine_f16, f16)
