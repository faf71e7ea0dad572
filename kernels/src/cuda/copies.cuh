// Copies from memory to shared memory that a thread starts and later waits for, sixteen bytes each.
//
// The emulated ones poison their destination when they start and arrive when they are waited for, so that whatever is
// overwritten too early or read too soon shows.
#pragma once
#include "common.cuh"

class Copies {
 public:
  // Copies sixteen bytes, or makes them zeros. Of the group that ends with the next `commit`.
  __device__ __forceinline__ void start(uint4* to, const void* from, bool is_there) {
#if defined(EMULATED)
    memset(static_cast<void*>(to), 0xff, sizeof *to);
    pending[count++] = {to, is_there ? static_cast<const uint4*>(from) : nullptr, groups};
    if (count > MOST) __trap();
#elif __CUDA_ARCH__ >= 800
    unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(is_there ? 16 : 0)
                 : "memory");
#else
    *to = is_there ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
  }
  __device__ __forceinline__ void commit() {
#if defined(EMULATED)
    groups++;
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }
  // Waits for all groups but the last OPEN. What other threads copied is there after a barrier.
  template <int OPEN>
  __device__ __forceinline__ void wait() {
#if defined(EMULATED)
    int left = 0;
    for (int i = 0; i < count; i++) {
      if (pending[i].group + OPEN >= groups) {
        pending[left++] = pending[i];
      } else {
        *pending[i].to = pending[i].from ? *pending[i].from : make_uint4(0, 0, 0, 0);
      }
    }
    count = left;
#elif __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
#endif
  }

#if defined(EMULATED)
 private:
  static constexpr int MOST = 64;
  struct Copy {
    uint4* to;
    const uint4* from;
    int group;
  } pending[MOST];
  int count = 0, groups = 0;
#endif
};
