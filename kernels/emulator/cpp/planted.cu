// Kernels with one mistake each, and a few that only look wrong: the checkers must tell them apart.
#include "copies.cuh"

// The sum over a block, with the mistake that `Bug` says.
enum Bug { NONE, NO_BARRIER, NO_BARRIER_BEFORE_REUSE, PAST_SHARED };
template <Bug bug>
static __device__ float sum_over_block(float v) {
  SHARED(float, partial, [32]);
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  if (bug != NO_BARRIER_BEFORE_REUSE) {
    __syncthreads();
  }
  int slot = threadIdx.x / 32 + (bug == PAST_SHARED ? blockDim.x / 3 : 0);
  if (threadIdx.x % 32 == 0) partial[slot] = v;
  if (bug != NO_BARRIER) {
    __syncthreads();
  }
  float sum = 0;
  for (unsigned i = 0; i < blockDim.x / 32; i++) sum += partial[i];
  return sum;
}
// Two sums in a row: of the numbers, and of their distances from the mean.
template <Bug bug>
static __device__ void spread(const float* x, float* out) {
  float mean = sum_over_block<bug>(x[threadIdx.x]) / blockDim.x;
  float sum = sum_over_block<bug>(fabsf(x[threadIdx.x] - mean));
  if (threadIdx.x == 0) *out = sum;
}

// Three times the sum of all numbers: each warp adds up tiles that are copied while the one before is read.
enum CopyBug { COPIED, NOT_WAITED_FOR, NOT_MET, INTO_WHAT_IS_READ };
template <CopyBug bug>
static __device__ void sum_of_copies(const float* x, float* out) {
  SHARED(uint4, tiles, [2][8]);
  Copies copies;
  auto copy = [&](unsigned tile, int to) {
    if (tile < blockDim.x / 32 && threadIdx.x < 8) {
      copies.start(&tiles[to][threadIdx.x], x + tile * 32 + threadIdx.x * 4, true);
    }
    copies.commit();
  };
  float sum = 0;
  copy(0, 0);
  for (unsigned tile = 0; tile < blockDim.x / 32; tile++) {
    if (bug != NOT_WAITED_FOR) copies.wait<0>();
    if (bug != NOT_MET) {
      __syncthreads();
    }
    copy(tile + 1, (tile + (bug != INTO_WHAT_IS_READ)) % 2);
    sum += reinterpret_cast<const float*>(tiles[tile % 2])[threadIdx.x % 32];
  }
  sum = sum_over_block<NONE>(sum);
  if (threadIdx.x == 0) *out = sum;
}

extern "C" {
__global__ void planted_copies(const float* x, float* out) { sum_of_copies<COPIED>(x, out); }
__global__ void planted_copies_not_waited_for(const float* x, float* out) { sum_of_copies<NOT_WAITED_FOR>(x, out); }
__global__ void planted_copies_not_met(const float* x, float* out) { sum_of_copies<NOT_MET>(x, out); }
__global__ void planted_copies_into_what_is_read(const float* x, float* out) { sum_of_copies<INTO_WHAT_IS_READ>(x, out); }
__global__ void planted_none(const float* x, float* out) { spread<NONE>(x, out); }
__global__ void planted_no_barrier(const float* x, float* out) { spread<NO_BARRIER>(x, out); }
__global__ void planted_no_barrier_before_reuse(const float* x, float* out) { spread<NO_BARRIER_BEFORE_REUSE>(x, out); }
__global__ void planted_past_shared(const float* x, float* out) { spread<PAST_SHARED>(x, out); }

__global__ void planted_past_global(const float* x, float* out) {
  float sum = sum_over_block<NONE>(x[threadIdx.x + (threadIdx.x == blockDim.x - 1)]);
  if (threadIdx.x == 0) *out = sum;
}
__global__ void planted_misaligned(const float* x, float* out) {
  const float2* pairs = reinterpret_cast<const float2*>(x + 1);
  if (threadIdx.x == 0) *out = pairs[0].x + pairs[0].y;
}
__global__ void planted_two_barriers(const float* x, float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  if (threadIdx.x == 0) *out = x[0];
}
__global__ void planted_early_exit(const float* x, float* out) {
  if (threadIdx.x == 40) return;
  __syncthreads();
  if (threadIdx.x == 0) *out = x[0];
}
__global__ void planted_wrong_mask(const float* x, float* out) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(~0u, v, 1);
  if (threadIdx.x == 0) *out = v;
}
__global__ void planted_outside_mask(const float* x, float* out) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(0xffffu, v, 16);
  if (threadIdx.x == 0) *out = v;
}
// Exchanges neighbours' numbers through shared memory, as if a warp ran in step.
__global__ void planted_no_syncwarp(const float* x, float* out) {
  SHARED(float, both, [1024]);
  both[threadIdx.x] = x[threadIdx.x];
  float v = both[threadIdx.x ^ 1];
  if (threadIdx.x == 0) *out = v;
}
__global__ void planted_syncwarp(const float* x, float* out) {
  SHARED(float, both, [1024]);
  both[threadIdx.x] = x[threadIdx.x];
  __syncwarp();
  float v = both[threadIdx.x ^ 1];
  if (threadIdx.x == 0 && blockIdx.x == 0) *out = v;
}
__global__ void planted_blocks_collide(const float* x, float* out) {
  if (threadIdx.x == 0) *out = x[blockIdx.x];
}
// Whichever block comes last adds up what all have written: ordered by a fence and an atomic.
__global__ void planted_last_block(const float* x, float* out) {
  if (threadIdx.x != 0) return;
  out[2 + blockIdx.x] = x[blockIdx.x];
  __threadfence();
  if (atomicAdd(out + 1, 1.0f) != gridDim.x - 1) return;
  float sum = 0;
  for (unsigned i = 0; i < gridDim.x; i++) sum += out[2 + i];
  out[0] = sum;
}
// Each adds 1 to the first number. What it reads was written by the launch before.
__global__ void planted_waits(const float*, float* out) {
  begin_kernel();
  if (threadIdx.x == 0) out[0] += 1.0f;
}
__global__ void planted_never_waits(const float* x, float* out) {
  if (threadIdx.x != 0) wait_for_previous();
  if (threadIdx.x > blockDim.x) out[0] = x[0];
}
__global__ void planted_reads_too_early(const float*, float* out) {
  float number = out[0];
  begin_kernel();
  if (threadIdx.x == 0) out[0] = number + 1.0f;
}
__global__ void planted_writes_too_early(const float* x, float* out) {
  if (threadIdx.x == 0) out[0] = x[0];
  begin_kernel();
}
__global__ void planted_trap(const float* x, float* out) {
  if (x[threadIdx.x] > 1e30f) __trap();
  if (threadIdx.x == 0) *out = x[0];
}
}
EXPORT_ALONE(planted_copies)
EXPORT_ALONE(planted_copies_not_waited_for)
EXPORT_ALONE(planted_copies_not_met)
EXPORT_ALONE(planted_copies_into_what_is_read)
EXPORT_ALONE(planted_none)
EXPORT_ALONE(planted_no_barrier)
EXPORT_ALONE(planted_no_barrier_before_reuse)
EXPORT_ALONE(planted_past_shared)
EXPORT_ALONE(planted_past_global)
EXPORT_ALONE(planted_misaligned)
EXPORT_ALONE(planted_two_barriers)
EXPORT_ALONE(planted_early_exit)
EXPORT_ALONE(planted_wrong_mask)
EXPORT_ALONE(planted_outside_mask)
EXPORT_ALONE(planted_no_syncwarp)
EXPORT_ALONE(planted_syncwarp)
EXPORT_ALONE(planted_blocks_collide)
EXPORT_ALONE(planted_last_block)
EXPORT_ALONE(planted_trap)
EXPORT(planted_waits)
EXPORT(planted_never_waits)
EXPORT(planted_reads_too_early)
EXPORT(planted_writes_too_early)
