// gelu(gate) * up. gelu is the tanh approximation, which equals x / (1 + exp(-2u)) with u = sqrt(2/pi) * (x + 0.044715 x^3).
#pragma once
#include "common.cuh"

__device__ __forceinline__ float geglu(float gate, float up) {
  float u = 0.7978845608f * gate * fmaf(0.044715f * gate, gate, 1.0f);
  // Not to be contracted: every kernel must get the same bits.
  return gate / __fadd_rn(1.0f, expf(-2.0f * u)) * up;
}
