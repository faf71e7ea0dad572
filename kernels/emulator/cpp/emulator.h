// A small CUDA for host compilers: what a kernel may say, and how its threads meet.
//
// Each CUDA thread is a fiber; where threads synchronize, `barrier` or `warp` switches to another fiber. Barriers are told apart by
// file and line through default arguments, so two must not share a line.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define EMULATED 1
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
// A plain static would be neither poisoned nor reborn with each block.
#define __shared__ use_the_SHARED_macro

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
};

#define EMU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emu {

struct View {
  uint3 thread, block;
  dim3 block_size, grid;
};
// Not thread_local: the wrapper that g++ makes for that upsets UBSan.
extern __thread View* view;

enum Op { SYNC, INDEX, UP, DOWN, XOR, BALLOT, ANY, ALL, COLLECTIVE };
enum BarrierKind { PLAIN, OR, AND, COUNT };

uint64_t warp(Op op, unsigned mask, uint64_t value, unsigned arg, int width, const char* file, int line,
              void (*together)(void**) = nullptr);
int barrier(BarrierKind kind, int predicate, const char* file, int line);
void* shared(const void* key, size_t bytes);
void* shared_dynamic();
void fence();
void wait_for_previous();
[[noreturn]] void trap(const char* file, int line);

// The same bytes as another type of at most eight bytes.
template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) <= 8 && sizeof(From) <= 8, "shuffles move up to eight bytes");
  To to{};
  memcpy(static_cast<void*>(&to), static_cast<const void*>(&from), std::min(sizeof(To), sizeof(From)));
  return to;
}

// An entry that can be launched by name.
struct Entry {
  const char* name;
  void (*function)();
  void (*call)(void (*)(), void**);
  // Whether it may start before the launch before it has ended.
  bool overlaps;
  int parameters;
  size_t sizes[32];
  Entry* next;
  static Entry* first;

  template <class... A, size_t... I>
  static void apply(void (*function)(), void** args, std::index_sequence<I...>) {
    reinterpret_cast<void (*)(A...)>(function)(*static_cast<std::remove_cv_t<A>*>(args[I])...);
  }
  template <class... A>
  Entry(const char* name, bool overlaps, void (*kernel)(A...))
      : name(name),
        function(reinterpret_cast<void (*)()>(kernel)),
        overlaps(overlaps),
        parameters(sizeof...(A)),
        sizes{sizeof(A)...},
        next(first) {
    call = [](void (*function)(), void** args) { apply<A...>(function, args, std::index_sequence_for<A...>{}); };
    first = this;
  }
};

}  // namespace emu

#define threadIdx (emu::view->thread)
#define blockIdx (emu::view->block)
#define blockDim (emu::view->block_size)
#define gridDim (emu::view->grid)
#define EXPORT(kernel) static emu::Entry emu_entry_##kernel(#kernel, true, kernel);
#define EXPORT_ALONE(kernel) static emu::Entry emu_entry_##kernel(#kernel, false, kernel);
// A block of memory of exactly this size, of its own in each CUDA block, filled with NaN.
#define SHARED(T, name, dims) \
  typedef T name##_type dims; \
  name##_type& name = *static_cast<name##_type*>(emu::shared([] { static char key; return &key; }(), sizeof(name##_type)))
#define SHARED_DYN(T, name) T* name = static_cast<T*>(emu::shared_dynamic())
#define __trap() emu::trap(__FILE__, __LINE__)

inline void __syncthreads(EMU_HERE) { emu::barrier(emu::PLAIN, 0, file, line); }
inline int __syncthreads_or(int p, EMU_HERE) { return emu::barrier(emu::OR, p, file, line); }
inline int __syncthreads_and(int p, EMU_HERE) { return emu::barrier(emu::AND, p, file, line); }
inline int __syncthreads_count(int p, EMU_HERE) { return emu::barrier(emu::COUNT, p, file, line); }
inline void __syncwarp(unsigned mask = ~0u, EMU_HERE) { emu::warp(emu::SYNC, mask, 0, 0, 32, file, line); }
inline unsigned __ballot_sync(unsigned mask, int p, EMU_HERE) {
  return static_cast<unsigned>(emu::warp(emu::BALLOT, mask, p != 0, 0, 32, file, line));
}
inline int __any_sync(unsigned mask, int p, EMU_HERE) {
  return static_cast<int>(emu::warp(emu::ANY, mask, p != 0, 0, 32, file, line));
}
inline int __all_sync(unsigned mask, int p, EMU_HERE) {
  return static_cast<int>(emu::warp(emu::ALL, mask, p != 0, 0, 32, file, line));
}
#define EMU_SHUFFLE(name, OP, Arg)                                                                               \
  template <class T>                                                                                             \
  inline T name(unsigned mask, T value, Arg arg, int width = 32, EMU_HERE) {                                     \
    uint64_t got = emu::warp(emu::OP, mask, emu::bits<uint64_t>(value), static_cast<unsigned>(arg), width, file, \
                             line);                                                                              \
    return emu::bits<T>(got);                                                                                    \
  }
EMU_SHUFFLE(__shfl_sync, INDEX, int)
EMU_SHUFFLE(__shfl_up_sync, UP, unsigned)
EMU_SHUFFLE(__shfl_down_sync, DOWN, unsigned)
EMU_SHUFFLE(__shfl_xor_sync, XOR, int)

// The twin of an instruction that a whole warp executes: `together` runs once, on what each lane holds in `mine`.
template <class Lane>
inline void emu_collective(Lane& mine, void (*together)(void**), EMU_HERE) {
  emu::warp(emu::COLLECTIVE, ~0u, reinterpret_cast<uintptr_t>(&mine), 0, 32, file, line, together);
}

inline void __threadfence() { emu::fence(); }
inline void __threadfence_block() {}

#include "numbers.h"
