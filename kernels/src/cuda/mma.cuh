// Tensor cores: the instructions of a warp, and beside each what it does, written out for the emulator. The twins
// prove the code around them; that they place numbers as the hardware does, only a device can.
#pragma once
#include "common.cuh"

// Four 8x8 matrices of 16-bit numbers from shared memory. Lane 8m + r gives the address of row r of matrix m, and gets
// of each matrix the numbers 2(lane % 4) and the next one of row lane / 4; of the transposed one if it is to be.
template <bool transposed>
__device__ __forceinline__ void load_matrices(unsigned* to, const uint4* row) {
#ifdef EMULATED
  // Each lane reads its own row, so that the race checker knows who did.
  struct Lane {
    uint4 row;
    unsigned* to;
  } mine{*row, to};
  emu_collective(mine, [](void** lanes) {
    auto number = [&](int matrix, int row, int column) {
      uint16_t numbers[8];
      memcpy(numbers, &static_cast<Lane*>(lanes[8 * matrix + row])->row, sizeof numbers);
      return static_cast<unsigned>(numbers[column]);
    };
    for (int lane = 0; lane < 32; lane++) {
      int row = lane / 4, column = lane % 4 * 2;
      for (int m = 0; m < 4; m++) {
        unsigned low = transposed ? number(m, column, row) : number(m, row, column);
        unsigned high = transposed ? number(m, column + 1, row) : number(m, row, column + 1);
        static_cast<Lane*>(lanes[lane])->to[m] = low | high << 16;
      }
    }
  });
#else
  unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
  }
#endif
}

#ifdef EMULATED
// sum[16][8] += a[16][16] * b[16][8], where a lane has four registers of a, two of b and four numbers of the sum.
template <class T>
__device__ __forceinline__ void multiply(float* sum, const unsigned* a, const unsigned* b) {
  struct Lane {
    float* sum;
    const unsigned *a, *b;
  } mine{sum, a, b};
  emu_collective(mine, [](void** lanes) {
    float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; lane++) {
      const Lane& mine = *static_cast<Lane*>(lanes[lane]);
      int row = lane / 4, column = lane % 4 * 2;
      for (int i = 0; i < 4; i++) {
        float2 pair = unpack2<T>(mine.a[i]);
        left[row + i % 2 * 8][column + i / 2 * 8] = pair.x;
        left[row + i % 2 * 8][column + i / 2 * 8 + 1] = pair.y;
      }
      for (int i = 0; i < 2; i++) {
        float2 pair = unpack2<T>(mine.b[i]);
        right[column + i * 8][row] = pair.x;
        right[column + i * 8 + 1][row] = pair.y;
      }
    }
    for (int lane = 0; lane < 32; lane++) {
      for (int i = 0; i < 4; i++) {
        float& sum = static_cast<Lane*>(lanes[lane])->sum[i];
        for (int k = 0; k < 16; k++) sum += left[lane / 4 + i / 2 * 8][k] * right[k][lane % 4 * 2 + i % 2];
      }
    }
  });
}
#else
template <class T>
__device__ __forceinline__ void multiply(float* sum, const unsigned* a, const unsigned* b);
template <>
__device__ __forceinline__ void multiply<bf16>(float* sum, const unsigned* a, const unsigned* b) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();  // 7.5 has no bf16 tensor cores: its cache is f16
#endif
}
template <>
__device__ __forceinline__ void multiply<f16>(float* sum, const unsigned* a, const unsigned* b) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int half = 0; half < 2; half++) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}
#endif

// The number one, twice.
template <class T>
constexpr unsigned TWO_ONES = 0;
template <>
constexpr unsigned TWO_ONES<bf16> = 0x3f803f80u;
template <>
constexpr unsigned TWO_ONES<f16> = 0x3c003c00u;

// sum[16][8] += a[16][32] * b[32][8], where each lane has eight columns of row lane / 4 of a, of the row eight below, and of
// vector lane / 4.
template <class T>
__device__ __forceinline__ void multiply_group(float* sum, const unsigned* upper, const unsigned* lower, uint4 vector) {
  const unsigned a[2][4] = {{upper[0], lower[0], upper[1], lower[1]}, {upper[2], lower[2], upper[3], lower[3]}};
  const unsigned b[2][2] = {{vector.x, vector.y}, {vector.z, vector.w}};
  multiply<T>(sum, a[0], b[0]);
  multiply<T>(sum, a[1], b[1]);
}
