// Residual addition and RMS norm in one go, all in f32: stream += delta, out = stream / rms(stream) * (1 + scale).
#include "common.cuh"

namespace {

// A block for each row. `delta` may be null. `width` is a multiple of 8.
template <class Out>
__device__ void add_rms_norm(float* stream, const float* delta, const float* scale, Out* out, int width,
                             float epsilon) {
  begin_kernel();
  size_t row = static_cast<size_t>(blockIdx.x) * width;
  float squares = 0;
  for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    float x[8], add[8];
    load8(stream + row + i, x);
    if (delta) {
      load8(delta + row + i, add);
#pragma unroll
      for (int k = 0; k < 8; k++) x[k] += add[k];
      store8(stream + row + i, x);
    }
#pragma unroll
    for (int k = 0; k < 8; k++) squares = fmaf(x[k], x[k], squares);
  }
  float factor = rsqrtf(block_sum(squares) / width + epsilon);
  for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    float x[8], more[8];
    load8(stream + row + i, x);
    load8(scale + i, more);
#pragma unroll
    for (int k = 0; k < 8; k++) x[k] = x[k] * factor * (1.0f + more[k]);
    store8(out + row + i, x);
  }
}

}  // namespace

#define ADD_RMS_NORM(name, Out)                                                                                     \
  extern "C" __global__ void __launch_bounds__(1024) name(float* stream, const float* delta, const float* scale,    \
                                                          Out* out, int width, float epsilon) {                     \
    add_rms_norm(stream, delta, scale, out, width, epsilon);                                                        \
  }                                                                                                                 \
  EXPORT(name)
ADD_RMS_NORM(add_rms_norm_bf16, bf16)
ADD_RMS_NORM(add_rms_norm_f16, f16)
