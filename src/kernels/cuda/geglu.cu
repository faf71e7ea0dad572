// gelu(gate) * up, where a row is the gates and then the ups. gelu is the tanh approximation, which equals
// x / (1 + exp(-2u)) with u = sqrt(2/pi) * (x + 0.044715 x^3).
#include "common.cuh"

namespace {

__device__ __forceinline__ float gelu(float x) {
  float u = 0.7978845608f * x * fmaf(0.044715f * x, x, 1.0f);
  return x / (1.0f + expf(-2.0f * u));
}

// A thread for each group of eight. `width` is a multiple of 8.
template <class Out>
__device__ void geglu(const float* gate_up, Out* out, int width) {
  int column = (blockIdx.x * blockDim.x + threadIdx.x) * 8;
  if (column >= width) return;
  const float* row = gate_up + static_cast<size_t>(blockIdx.y) * 2 * width;
  float gate[8], up[8];
  load8(row + column, gate);
  load8(row + width + column, up);
#pragma unroll
  for (int k = 0; k < 8; k++) gate[k] = gelu(gate[k]) * up[k];
  store8(out + static_cast<size_t>(blockIdx.y) * width + column, gate);
}

}  // namespace

#define GEGLU(name, Out)                                                                                    \
  extern "C" __global__ void __launch_bounds__(128) name(const float* gate_up, Out* out, int width) {       \
    geglu(gate_up, out, width);                                                                             \
  }                                                                                                         \
  EXPORT(name)
GEGLU(geglu_bf16, bf16)
GEGLU(geglu_f16, f16)
