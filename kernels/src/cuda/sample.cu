// Samples each row's next token, and makes it the next step's input.
#include "sampling.cuh"

namespace {

// A few tokens that are left to choose from, in shared memory.
constexpr int FEW = 2048;
// Parts whose largest tokens are looked at first for top-p, with all that is as large as they.
constexpr unsigned SOME_PARTS = 32;
struct Few {
  unsigned *ids, *keys;
  u64* weights;
  int count;

  // What tokens weigh that stand above the one with this key.
  __device__ u64 above(unsigned key) const {
    u64 sum = 0;
    for (int j = 0; j < count; j++) sum += keys[j] > key ? weights[j] : 0;
    return sum;
  }
  __device__ u64 total(PerWarp per_warp) const {
    u64 mine = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) mine += weights[i];
    per_warp.put(warp_total(mine));
    return per_warp.sum();
  }
  // Takes their weight from those that do not hold.
  template <class Holds>
  __device__ void keep(Holds holds) const {
    bool held[FEW / 1024];
#pragma unroll
    for (int n = 0; n < FEW / 1024; n++) {
      int i = threadIdx.x + n * blockDim.x;
      held[n] = i >= count || holds(i);
    }
    __syncthreads();  // all weights have been read
#pragma unroll
    for (int n = 0; n < FEW / 1024; n++) {
      if (!held[n]) weights[threadIdx.x + n * blockDim.x] = 0;
    }
    __syncthreads();
  }

  // `whole` is the weight of all tokens of the row, of which these may be a part only.
  __device__ void sample(const RowSampler& sampler, u64 whole, u64 random, PerWarp per_warp, unsigned* chosen) const {
    if (sampler.top_k > 0) {
      keep([&](int i) {
        unsigned before = 0;
        for (int j = 0; j < count; j++) before += keys[j] > keys[i];
        return before < sampler.top_k;
      });
    }
    if (sampler.top_p != ~u64{0}) {
      u64 target = max(__umul64hi(sampler.top_k > 0 ? total(per_warp) : whole, sampler.top_p), u64{1});
      keep([&](int i) { return above(keys[i]) < target; });
    }
    keep([&](int i) { return weights[i] >= sampler.least_weight; });
    u64 rest = __umul64hi(random, total(per_warp));
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      u64 before = 0;
      for (int j = 0; j < count; j++) before += ids[j] < ids[i] ? weights[j] : 0;
      if (before <= rest && rest < before + weights[i]) *chosen = ids[i];
    }
  }
};

// All tokens of a row, in its memory.
struct Many {
  const float* x;
  int vocabulary;
  float largest, inverse;
  PerWarp per_warp;

  // Each warp weighs one of equal parts of those from `low` to `high`. Returns how large these are.
  template <class Weight>
  __device__ int weigh_parts(int low, int high, Weight weight) const {
    int warp = threadIdx.x / 32, warps = blockDim.x / 32, part = ((high - low + warps - 1) / warps + 3) / 4 * 4;
    u64 mine = 0;
    int begin = min(low + warp * part, high), end = min(begin + part, high);
    for_each(x, begin, end, threadIdx.x & 31, 32, [&](int, float logit) { mine += weight(logit); });
    per_warp.put(warp_total(mine));
    return part;
  }

  // The key such that tokens of at least that key weigh `target` together, and of no larger one do: eight bits at a time.
  template <class Weight>
  __device__ unsigned threshold(u64 target, Weight weight) const {
    SHARED(u64, bins, [256]);
    SHARED(u64, found, [2]);
    unsigned prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      __syncthreads();
      for (int i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
      __syncthreads();
      for_each(x, 0, vocabulary, threadIdx.x, blockDim.x, [&](int, float logit) {
        unsigned key = order(logit);
        if (shift < 24 && key >> (shift + 8) != prefix) return;
        u64 w = weight(logit);
        if (w) atomicAdd(&bins[key >> shift & 255], w);
      });
      __syncthreads();
      if (threadIdx.x == 0) {
        int digit = 255;
        while (digit > 0 && bins[digit] < target) target -= bins[digit--];
        found[0] = static_cast<u64>(digit);
        found[1] = target;
      }
      __syncthreads();
      prefix = prefix << 8 | static_cast<unsigned>(found[0]);
      target = found[1];
    }
    return prefix;
  }

  // The first token whose weight and those of all before it exceed `rest`, where warps have weighed parts of all. The part
  // where it lies is divided again.
  template <class Weight>
  __device__ unsigned find(u64 rest, int part, Weight weight) const {
    int lane = threadIdx.x & 31, warps = blockDim.x / 32, low = 0, high = vocabulary;
    while (true) {
      int w = 0;
      while (w < warps - 1 && rest >= per_warp.numbers[w]) rest -= per_warp.numbers[w++];
      low += w * part;
      high = min(low + part, high);
      if (high - low <= 32) break;
      part = weigh_parts(low, high, weight);
    }
    u64 sum = low + lane < high ? weight(x[low + lane]) : 0;
    for (int offset = 1; offset < 32; offset <<= 1) {
      u64 before = __shfl_up_sync(ALL_LANES, sum, offset);
      if (lane >= offset) sum += before;
    }
    unsigned beyond = __ballot_sync(ALL_LANES, sum > rest);
    return static_cast<unsigned>(low + __ffs(static_cast<int>(beyond)) - 1);
  }

  __device__ unsigned sample(const RowSampler& sampler, u64 random) const {
    unsigned least = 0;
    if (sampler.top_k > 0) least = threshold(sampler.top_k, [](float) { return u64{1}; });
    auto among = [&](float logit) { return order(logit) >= least ? weigh(logit, largest, inverse) : 0; };
    if (sampler.top_p != ~u64{0}) {
      weigh_parts(0, vocabulary, among);
      u64 target = max(__umul64hi(per_warp.sum(), sampler.top_p), u64{1});
      least = max(threshold(target, among), least);
    }
    auto kept = [&](float logit) {
      u64 weight = among(logit);
      return weight >= sampler.least_weight ? weight : 0;
    };
    int part = weigh_parts(0, vocabulary, kept);
    return find(__umul64hi(random, per_warp.sum()), part, kept);
  }
};

// The key of the part's maximum that exactly `before` other parts exceed; 0 if there are fewer parts.
__device__ unsigned largest_behind(unsigned before, const u64* partial, int parts) {
  SHARED(unsigned, found, [1]);
  int thread = threadIdx.x;
  __syncthreads();
  if (thread == 0) *found = 0;
  __syncthreads();
  if (thread < parts) {
    unsigned larger = 0;
    for (int i = 0; i < parts; i++) larger += partial[i] > partial[thread];
    if (larger == before) *found = static_cast<unsigned>(partial[thread] >> 32);
  }
  __syncthreads();
  return *found;
}

// A key that no token is below which top-p leaves, if all tokens weigh so much: all that weigh less than an equal share of
// what is to be left out weigh less than that together.
__device__ unsigned least_share(const RowSampler& sampler, const Many& all, u64 whole) {
  float out = static_cast<float>(~sampler.top_p) * 5.421010862e-20f;
  float share = static_cast<float>(whole) * 9.094947018e-13f / static_cast<float>(all.vocabulary);
  float least = all.largest + (logf(out) + logf(share) - 0.01f) / all.inverse - 1e-5f * fabsf(all.largest);
  return least > -INFINITY ? order(least) : 0;
}

}  // namespace

// The largest logit of a part of a row, with the first place where it is. Blocks, of a warp each: [part][row].
extern "C" __global__ void __launch_bounds__(32) argmax(const float* logits, const int* positions, u64* partial,
                                                            int vocabulary) {
  begin_kernel();
  int row = blockIdx.y;
  if (positions[row] < 0) return;
  int part = ((vocabulary + gridDim.x - 1) / gridDim.x + 3) / 4 * 4;
  int begin = min(static_cast<int>(blockIdx.x) * part, vocabulary), end = min(begin + part, vocabulary);
  u64 best = 0;
  for_each(logits + static_cast<size_t>(row) * vocabulary, begin, end, threadIdx.x, blockDim.x, [&](int i, float logit) {
    u64 this_one = static_cast<u64>(order(logit)) << 32 | ~static_cast<unsigned>(i);
    if (!(fabsf(logit) < INFINITY)) this_one = NOT_FINITE;
    best = this_one > best ? this_one : best;
  });
  best = warp_max(best);
  if (threadIdx.x == 0) partial[static_cast<size_t>(row) * gridDim.x + blockIdx.x] = best;
}
EXPORT(argmax)

// A block of 1024 threads for each row, and up to as many parts. A row that is not in use is skipped.
extern "C" __global__ void __launch_bounds__(1024, 1) sample(const float* logits, const int* positions,
                                                             const u64* partial, const unsigned* samplers,
                                                             unsigned* chosen, int vocabulary, int parts) {
  begin_kernel();
  int row = blockIdx.x;
  if (positions[row] < 0) return;
  partial += static_cast<size_t>(row) * parts;
  SHARED(u64, numbers, [32]);
  PerWarp per_warp{numbers};
  per_warp.put(warp_max(static_cast<int>(threadIdx.x) < parts ? partial[threadIdx.x] : 0));
  u64 best = 0;
  for (unsigned w = 0; w < blockDim.x / 32; w++) best = max(best, per_warp.numbers[w]);
  RowSampler sampler = sampler_of(samplers + static_cast<size_t>(row) * 8);
  if (sampler.top_k >= static_cast<unsigned>(vocabulary)) sampler.top_k = 0;
  unsigned first = ~static_cast<unsigned>(best);
  if (best == NOT_FINITE || sampler.inverse_temperature == 0.0f) {
    if (threadIdx.x == 0) chosen[row] = best == NOT_FINITE ? NONE : first;
    return;
  }
  const float* x = logits + static_cast<size_t>(row) * vocabulary;
  Many all{x, vocabulary, x[first], sampler.inverse_temperature, per_warp};
  u64 random = philox(sampler.seed, static_cast<u64>(positions[row]));
  SHARED(unsigned, ids, [FEW]);
  SHARED(unsigned, keys, [FEW]);
  SHARED(u64, weights, [FEW]);
  SHARED(unsigned, count, [1]);
  Few few{ids, keys, weights, 0};
  // Takes those of at least this key, if there is one and they are few.
  auto gather = [&](unsigned least) {
    __syncthreads();  // those before have been looked at
    if (threadIdx.x == 0) *count = least > 0 ? 0 : FEW + 1;
    __syncthreads();
    if (least == 0) return false;
    for_each(x, 0, vocabulary, threadIdx.x, blockDim.x, [&](int i, float logit) {
      unsigned key = order(logit);
      if (key < least) return;
      unsigned at = atomicAdd(count, 1u);
      if (at >= FEW) return;
      ids[at] = static_cast<unsigned>(i);
      keys[at] = key;
      weights[at] = weigh(logit, all.largest, all.inverse);
    });
    __syncthreads();
    few.count = static_cast<int>(*count);
    return *count <= FEW;
  };
  u64 whole = 0;
  bool enough = false;
  if (sampler.top_k > 0) {
    // The largest of as many parts as are to be left are above what is not.
    enough = sampler.top_k <= static_cast<unsigned>(parts) && gather(largest_behind(sampler.top_k - 1, partial, parts));
  } else if (sampler.top_p != ~u64{0}) {
    all.weigh_parts(0, vocabulary, [&](float logit) { return weigh(logit, all.largest, all.inverse); });
    whole = per_warp.sum();
    // Mostly a few weigh enough; how many is not known before.
    enough = gather(largest_behind(SOME_PARTS, partial, parts)) &&
             few.total(per_warp) >= max(__umul64hi(whole, sampler.top_p), u64{1});
    enough = enough || gather(least_share(sampler, all, whole));
  }
  if (enough) {
    few.sample(sampler, whole, random, per_warp, chosen + row);
    return;
  }
  unsigned token = all.sample(sampler, random);
  if (threadIdx.x == 0) chosen[row] = token;
}
EXPORT(sample)

// The sampled token becomes the next step's input, one position on, and is kept for the host to read later. A row
// without a token is not in use any more. One block.
extern "C" __global__ void __launch_bounds__(1024) feed_back(const unsigned* chosen, unsigned* ids, int* positions,
                                                             unsigned* history, unsigned* step, int rows,
                                                             int history_steps) {
  begin_kernel();
  int row = threadIdx.x;
  unsigned now = *step;
  __syncthreads();
  if (row < rows) {
    unsigned token = positions[row] < 0 ? NONE : chosen[row];
    history[static_cast<size_t>(now % history_steps) * rows + row] = token;
    positions[row] = token == NONE ? -1 : positions[row] + 1;
    if (token != NONE) ids[row] = token;
  }
  if (row == 0) *step = now + 1;
}
EXPORT(feed_back)
