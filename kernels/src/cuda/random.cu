// Random weights, made on the device: for measuring, which needs a model's shapes and not its values. Products
// read weights before they wait for the launch before: between these kernels and those a copy must lie, which all wait for.
#include "common.cuh"

namespace {

// A bijection of 32 bits that leaves no pattern ("lowbias32", C. Wellons).
__device__ __forceinline__ unsigned mix(unsigned x) {
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) * 0x846ca68bu;
  return x ^ x >> 16;
}

// Eight numbers from -largest to largest for each thread.
template <class T>
__device__ void draw(T* to, int eights, float largest, unsigned seed) {
  begin_kernel();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= eights) return;
  float numbers[8];
#pragma unroll
  for (int k = 0; k < 8; k++) {
    unsigned bits = mix(mix(static_cast<unsigned>(i) * 8u + static_cast<unsigned>(k)) ^ seed);
    numbers[k] = (static_cast<float>(bits >> 8) * 1.1920929e-7f - 1.0f) * largest;
  }
  store8(to + static_cast<size_t>(i) * 8, numbers);
}

}  // namespace

#define DRAW(name, T)                                                                                           \
  extern "C" __global__ void __launch_bounds__(256) name(T* to, int eights, float largest, unsigned seed) {     \
    draw(to, eights, largest, seed);                                                                            \
  }                                                                                                             \
  EXPORT(name)
DRAW(draw_bf16, bf16)
DRAW(draw_f16, f16)

// Words of which each bit is drawn.
extern "C" __global__ void __launch_bounds__(256) draw_words(unsigned* to, int words, unsigned seed) {
  begin_kernel();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < words) to[i] = mix(mix(static_cast<unsigned>(i)) ^ seed);
}
EXPORT(draw_words)

// The same four words again and again.
extern "C" __global__ void __launch_bounds__(256) repeat_words(unsigned* to, int words, unsigned a, unsigned b,
                                                               unsigned c, unsigned d) {
  begin_kernel();
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < words) to[i] = i % 4 < 2 ? (i % 4 ? b : a) : (i % 4 == 2 ? c : d);
}
EXPORT(repeat_words)
