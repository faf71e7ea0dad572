// Chooses each row's next token among its logits. All that decides is done in whole numbers, or in f32 operations that
// every processor rounds alike, so src/kernels/sampling.rs, which explains the steps, chooses the very same token.
#include "common.cuh"

typedef unsigned long long u64;

namespace {

constexpr unsigned NONE = ~0u;
constexpr u64 NOT_FINITE = ~u64{0};

// Larger for larger numbers; the two zeros are one.
__device__ __forceinline__ unsigned order(float x) {
  unsigned bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// exp((logit - largest) / temperature) in 40 bits after the point, step by step as on the host.
__device__ u64 weigh(float logit, float largest, float inverse) {
  float x = __fmul_rn(__fsub_rn(logit, largest), inverse);
  if (!(x > -28.0f)) return 0;
  float whole = floorf(__fadd_rn(__fmul_rn(x, 1.442695f), 0.5f));
  float rest = __fsub_rn(x, __fmul_rn(whole, 0.6933594f));
  rest = __fadd_rn(rest, __fmul_rn(whole, 2.1219444e-4f));
  float sum = 1.9875691e-4f;
  sum = __fadd_rn(__fmul_rn(sum, rest), 1.3981999e-3f);
  sum = __fadd_rn(__fmul_rn(sum, rest), 8.333452e-3f);
  sum = __fadd_rn(__fmul_rn(sum, rest), 4.1665796e-2f);
  sum = __fadd_rn(__fmul_rn(sum, rest), 0.16666665f);
  sum = __fadd_rn(__fmul_rn(sum, rest), 0.5f);
  float power = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(sum, rest), rest), rest), 1.0f);
  power = __fmul_rn(power, __uint_as_float(static_cast<unsigned>(127 + static_cast<int>(whole)) << 23));
  return static_cast<u64>(__fmul_rn(power, 1099511627776.0f));
}

// The Philox 4x32-10 generator: 64 bits for each key and counter.
__device__ u64 philox(u64 key, u64 counter) {
  unsigned k0 = static_cast<unsigned>(key), k1 = static_cast<unsigned>(key >> 32);
  unsigned c0 = static_cast<unsigned>(counter), c1 = static_cast<unsigned>(counter >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < 10; round++) {
    unsigned high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
    unsigned high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return static_cast<u64>(c1) << 32 | c0;
}

__device__ __forceinline__ u64 warp_max(u64 x) {
  for (int offset = 16; offset; offset >>= 1) {
    u64 other = __shfl_xor_sync(ALL_LANES, x, offset);
    x = other > x ? other : x;
  }
  return x;
}
__device__ __forceinline__ u64 warp_total(u64 x) {
  for (int offset = 16; offset; offset >>= 1) x += __shfl_xor_sync(ALL_LANES, x, offset);
  return x;
}

// A warp's number for each warp of the block, for every thread.
struct PerWarp {
  u64* numbers;
  __device__ void put(u64 number) const {
    __syncthreads();  // what was there before has been read
    if ((threadIdx.x & 31) == 0) numbers[threadIdx.x / 32] = number;
    __syncthreads();
  }
};

// How a row chooses; eight words, as the host writes them.
struct Choice {
  float inverse_temperature;  // 0: the likeliest
  unsigned top_k;             // 0: all
  u64 top_p;                  // a fraction of 2^64; all ones: all
  u64 least_weight;
  u64 seed;
};
__device__ __forceinline__ Choice choice_of(const unsigned* words) {
  auto wide = [&](int i) { return static_cast<u64>(words[i + 1]) << 32 | words[i]; };
  return {__uint_as_float(words[0]), words[1], wide(2), wide(4), wide(6)};
}

// The key such that tokens of at least that key weigh `target` together, and of no larger one do: eight bits at a time.
template <class Weight>
__device__ unsigned threshold(const float* logits, int vocabulary, u64 target, Weight weight) {
  SHARED(u64, bins, [256]);
  SHARED(u64, found, [2]);
  unsigned prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) bins[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) {
      unsigned key = order(logits[i]);
      if (shift < 24 && key >> (shift + 8) != prefix) continue;
      u64 w = weight(logits[i], key);
      if (w) atomicAdd(&bins[key >> shift & 255], w);
    }
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

// The sum of `weight(i)` for all i, for every thread.
template <class Weight>
__device__ u64 total(PerWarp per_warp, int vocabulary, Weight weight) {
  u64 mine = 0, all = 0;
  for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) mine += weight(i);
  per_warp.put(warp_total(mine));
  for (unsigned w = 0; w < blockDim.x / 32; w++) all += per_warp.numbers[w];
  return all;
}

// The first token whose weight and those of all before it exceed `rest`. Warps weigh equal parts, and the part where it
// lies is divided again.
template <class Weight>
__device__ unsigned find(PerWarp per_warp, int vocabulary, u64 rest, Weight weight) {
  int warp = threadIdx.x / 32, lane = threadIdx.x & 31, warps = blockDim.x / 32, low = 0, high = vocabulary;
  while (high - low > 32) {
    int part = (high - low + warps - 1) / warps, begin = low + warp * part, end = min(begin + part, high);
    u64 mine = 0;
    for (int i = begin + lane; i < end; i += 32) mine += weight(i);
    per_warp.put(warp_total(mine));
    int w = 0;
    while (w < warps - 1 && rest >= per_warp.numbers[w]) rest -= per_warp.numbers[w++];
    low += w * part;
    high = min(low + part, high);
  }
  u64 sum = low + lane < high ? weight(low + lane) : 0;
  for (int offset = 1; offset < 32; offset <<= 1) {
    u64 before = __shfl_up_sync(ALL_LANES, sum, offset);
    if (lane >= offset) sum += before;
  }
  unsigned beyond = __ballot_sync(ALL_LANES, sum > rest);
  return static_cast<unsigned>(low + __ffs(static_cast<int>(beyond)) - 1);
}

}  // namespace

// The largest logit of a part of a row, with the first place where it is. Blocks: [part][row].
extern "C" __global__ void __launch_bounds__(256) likeliest(const float* logits, const int* positions, u64* partial,
                                                            int vocabulary) {
  begin_kernel();
  int row = blockIdx.y;
  if (positions[row] < 0) return;
  int part = (vocabulary + gridDim.x - 1) / gridDim.x, begin = blockIdx.x * part, end = min(begin + part, vocabulary);
  const float* x = logits + static_cast<size_t>(row) * vocabulary;
  u64 best = 0;
  for (int i = begin + threadIdx.x; i < end; i += blockDim.x) {
    u64 this_one = static_cast<u64>(order(x[i])) << 32 | ~static_cast<unsigned>(i);
    if (!(fabsf(x[i]) < INFINITY)) this_one = NOT_FINITE;
    best = this_one > best ? this_one : best;
  }
  SHARED(u64, per_warp, [8]);
  best = warp_max(best);
  if ((threadIdx.x & 31) == 0) per_warp[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 8; w++) best = per_warp[w] > best ? per_warp[w] : best;
  partial[static_cast<size_t>(row) * gridDim.x + blockIdx.x] = best;
}
EXPORT(likeliest)

// A block of 1024 threads for each row. A row that is not in use chooses nothing.
extern "C" __global__ void __launch_bounds__(1024, 1) choose(const float* logits, const int* positions,
                                                          const u64* partial, const unsigned* choices,
                                                          unsigned* chosen, int vocabulary, int parts) {
  begin_kernel();
  int row = blockIdx.x;
  if (positions[row] < 0) return;
  u64 best = 0;
  for (int i = 0; i < parts; i++) {
    u64 part = partial[static_cast<size_t>(row) * parts + i];
    best = part > best ? part : best;
  }
  Choice choice = choice_of(choices + static_cast<size_t>(row) * 8);
  unsigned first = ~static_cast<unsigned>(best);
  if (best == NOT_FINITE || choice.inverse_temperature == 0.0f) {
    if (threadIdx.x == 0) chosen[row] = best == NOT_FINITE ? NONE : first;
    return;
  }
  const float* x = logits + static_cast<size_t>(row) * vocabulary;
  float largest = x[first], inverse = choice.inverse_temperature;
  unsigned least = 0;
  if (choice.top_k > 0 && choice.top_k < static_cast<unsigned>(vocabulary)) {
    least = threshold(x, vocabulary, choice.top_k, [](float, unsigned) { return u64{1}; });
  }
  SHARED(u64, numbers, [32]);
  PerWarp per_warp{numbers};
  auto among = [=](int i) { return order(x[i]) >= least ? weigh(x[i], largest, inverse) : 0; };
  if (choice.top_p != ~u64{0}) {
    u64 target = __umul64hi(total(per_warp, vocabulary, among), choice.top_p);
    unsigned most = least;
    least = threshold(x, vocabulary, max(target, u64{1}), [=](float logit, unsigned key) {
      return key >= most ? weigh(logit, largest, inverse) : 0;
    });
    least = max(least, most);
  }
  auto kept = [=](int i) {
    u64 weight = order(x[i]) >= least ? weigh(x[i], largest, inverse) : 0;
    return weight >= choice.least_weight ? weight : 0;
  };
  u64 random = philox(choice.seed, static_cast<u64>(positions[row]));
  u64 rest = __umul64hi(random, total(per_warp, vocabulary, kept));
  unsigned token = find(per_warp, vocabulary, rest, kept);
  if (threadIdx.x == 0) chosen[row] = token;
}
EXPORT(choose)

// What was chosen becomes the next step's input, one position on, and is noted for the host to read when it likes. A row
// that could not choose is not in use any more. One block.
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
