// What the scheduler knows of a block in flight; the race checker reads it.
#pragma once
#include <set>
#include <string>
#include <vector>

#include "emulator.h"
#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emu {

enum State { READY, AT_BARRIER, IN_WARP, EXITED };
enum Policy { IN_ORDER, REVERSE, WARP_PRIORITY, RANDOM_THREADS };

struct Options {
  Policy policy = IN_ORDER;
  uint64_t random = 88172645463325252ull;
  // One access in this many switches to another fiber; race builds only.
  unsigned preempt = 0;
  bool race = false;
};

struct Fiber {
  View view;
  State state = READY;
  void* stack_pointer;
  char* stack;
  // What ASan keeps of a fiber that does not run.
  void* fake_stack = nullptr;
  const char* file = nullptr;
  int line = 0;
  bool fenced = false;
  // For the launch before this one.
  bool waited = false;
  Op op{};
  unsigned mask = 0, arg = 0;
  BarrierKind kind{};
  uint64_t value = 0, result = 0;
  // A vector clock over the lanes of the warp.
  unsigned epoch = 1;
  unsigned seen[32] = {};
};

struct SharedMemory {
  const void* key;
  void* memory;
  size_t bytes;
};

struct Block {
  Entry* entry;
  void** args;
  uint3 index;
  std::vector<Fiber> fibers;
  // Bits of lanes, for each warp.
  std::vector<unsigned> ready, waiting, exited;
  // The warps, in the order in which they go first.
  std::vector<int> priority;
  // Blocks whose writes are known through a fence and an atomic.
  std::set<unsigned> acquired;
  std::vector<SharedMemory> shared;
  Fiber* running = nullptr;
  void* scheduler_stack;
  const void* scheduler_bottom;
  size_t scheduler_bytes;
  void* dynamic = nullptr;
  size_t static_bytes = 0;
  unsigned arrived = 0, done = 0, epoch = 1;
  std::string error;
};

extern thread_local Options options;
extern thread_local Block* block;

uint64_t random64();
std::string where(const Fiber& fiber);
void fail(const std::string& message);
void make_ready(int thread);
void check_barrier();
// Ends the running fiber's turn.
void give_way();
bool on_a_stack(const void* address);
// Called at an access of a race build.
void may_give_way();
// Called before each launch; race builds have their own.
void launch_begins();
// The memory was given to another buffer.
void forget(uintptr_t from, size_t bytes);

}  // namespace emu
