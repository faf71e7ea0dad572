// Residual addition and RMS norm in one go, all in f32: stream += delta, out = stream / rms(stream) * (1 + scale).
#include "common.cuh"

namespace {

// A block for each result, a thread for eight numbers. `delta` may be null. The rows that results are made of are those in
// `which`, if that is not null, else all in their order. `width` is a multiple of 8.
template <class Out>
__device__ void add_rms_norm(float* stream, const float* delta, const float* scale, const int* which, Out* out, int rows,
                             int width, float epsilon) {
  let_next_start();
  int column = threadIdx.x * 8;
  bool is_there = column < width;
  float x[8] = {}, more[8] = {};
  if (is_there) load8(scale + column, more);  // weights: they need not be waited for
  wait_for_previous();
  int from = which ? which[blockIdx.x] : static_cast<int>(blockIdx.x);
  if (from < 0 || from >= rows) __trap();
  float squares = 0;
  if (is_there) {
    size_t at = static_cast<size_t>(from) * width + column;
    load8(stream + at, x);
    if (delta) {
      float add[8];
      load8(delta + at, add);
#pragma unroll
      for (int k = 0; k < 8; k++) x[k] += add[k];
      store8(stream + at, x);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) squares = fmaf(x[k], x[k], squares);
  }
  float factor = rsqrtf(block_sum(squares) / width + epsilon);
  if (!is_there) return;
#pragma unroll
  for (int k = 0; k < 8; k++) x[k] = x[k] * factor * (1.0f + more[k]);
  store8(out + static_cast<size_t>(blockIdx.x) * width + column, x);
}

}  // namespace

#define ADD_RMS_NORM(name, Out)                                                                                      \
  extern "C" __global__ void __launch_bounds__(1024) name(float* stream, const float* delta, const float* scale,     \
                                                          const int* which, Out* out, int rows, int width,           \
                                                          float epsilon) {                                           \
    add_rms_norm(stream, delta, scale, which, out, rows, width, epsilon);                                            \
  }                                                                                                                  \
  EXPORT(name)
ADD_RMS_NORM(add_rms_norm_bf16, bf16)
ADD_RMS_NORM(add_rms_norm_f16, f16)
