// Runs a launch on one thread of the host: a fiber for each CUDA thread, one block after the other, in the order that
// a policy picks. Orders at the extremes find more than random ones, which keep warps nearly in step.
//
// Never compiled with -fsanitize=thread: what it does is no kernel's access.
#include <sys/mman.h>

#include <cstdlib>
#include <numeric>

#include "runtime.h"
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define WITH_ASAN(x) x
#else
#define WITH_ASAN(x)
#endif
#if !defined(__x86_64__)
#error "the fiber switch is written for x86-64"
#endif

// Saves what a callee must save, and goes on with another stack.
extern "C" void emu_switch(void** save, void* to);
asm(".text\n"
    ".globl emu_switch\n"
    ".type emu_switch,@function\n"
    "emu_switch:\n"
    "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
    "movq %rsp,(%rdi)\nmovq %rsi,%rsp\n"
    "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\n"
    "ret\n");

namespace emu {

__thread View* view;
Entry* Entry::first;
thread_local Options options;
thread_local Block* block;

namespace {

constexpr size_t STACK = 128 << 10, GUARD = 4096, MOST_THREADS = 1024;

thread_local std::string last_error;

// The stacks of a host thread's fibers, each above a page that nothing may touch. Taken when first used.
struct Stacks {
  char* arena = nullptr;

  char* get(size_t index) {
    if (!arena) {
      void* memory = mmap(nullptr, MOST_THREADS * (STACK + GUARD), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) abort();
      arena = static_cast<char*>(memory);
      for (size_t i = 0; i < MOST_THREADS; i++) mprotect(arena + i * (STACK + GUARD), GUARD, PROT_NONE);
    }
    return arena + index * (STACK + GUARD) + GUARD;
  }
  ~Stacks() {
    if (arena) munmap(arena, MOST_THREADS * (STACK + GUARD));
  }
};
thread_local Stacks stacks;
// Whether all threads of the last launch waited for the one before.
thread_local bool all_waited;

int nth_bit(unsigned mask, unsigned n) {
  while (n--) mask &= mask - 1;
  return __builtin_ctz(mask);
}

// The thread that goes on, or -1 if none can.
int pick() {
  Block& b = *block;
  int warps = static_cast<int>(b.ready.size()), offset = 0;
  if (options.policy == RANDOM_THREADS) offset = static_cast<int>(random64() % warps);
  for (int i = 0; i < warps; i++) {
    int warp = i;
    if (options.policy == REVERSE) warp = warps - 1 - i;
    if (options.policy == WARP_PRIORITY) warp = b.priority[i];
    if (options.policy == RANDOM_THREADS) warp = (i + offset) % warps;
    unsigned ready = b.ready[warp];
    if (!ready) continue;
    int lane = __builtin_ctz(ready);
    if (options.policy == REVERSE) lane = 31 - __builtin_clz(ready);
    if (options.policy >= WARP_PRIORITY) lane = nth_bit(ready, random64() % __builtin_popcount(ready));
    b.ready[warp] &= ~(1u << lane);
    return warp * 32 + lane;
  }
  return -1;
}

void fiber_begins() {
  WITH_ASAN(__sanitizer_finish_switch_fiber(nullptr, &block->scheduler_bottom, &block->scheduler_bytes);)
  block->entry->call(block->entry->function, block->args);
  block->running->state = EXITED;
  give_way();
  abort();
}

void prepare(Fiber& fiber, int index, dim3 grid, dim3 size, uint3 at) {
  unsigned i = static_cast<unsigned>(index);
  fiber.view = {{i % size.x, i / size.x % size.y, i / (size.x * size.y)}, at, size, grid};
  fiber.stack = stacks.get(i);
  WITH_ASAN(__asan_unpoison_memory_region(fiber.stack, STACK);)
  // As after a call: the return address on a stack that was aligned before it, and six saved registers.
  void** top = reinterpret_cast<void**>(fiber.stack + STACK) - 1;
  *top = nullptr;
  *--top = reinterpret_cast<void*>(fiber_begins);
  for (int i = 0; i < 6; i++) *--top = nullptr;
  fiber.stack_pointer = top;
  make_ready(index);
}

void resume(int thread) {
  Block& b = *block;
  Fiber& fiber = b.fibers[thread];
  b.running = &fiber;
  view = &fiber.view;
  WITH_ASAN(void* fake; __sanitizer_start_switch_fiber(&fake, fiber.stack, STACK);)
  emu_switch(&b.scheduler_stack, fiber.stack_pointer);
  WITH_ASAN(__sanitizer_finish_switch_fiber(fake, nullptr, nullptr);)
  b.running = nullptr;
  if (fiber.state != EXITED || !b.error.empty()) return;
  b.done++;
  all_waited &= fiber.waited;
  b.exited[thread / 32] |= 1u << (thread % 32);
  check_barrier();
}

void report_deadlock() {
  std::string message = "deadlock: ";
  const Fiber* before = nullptr;
  int named = 0;
  for (const Fiber& fiber : block->fibers) {
    bool same = before && fiber.state == before->state && fiber.line == before->line && fiber.mask == before->mask;
    if (!same && named++ < 4) message += (named > 1 ? "; " : "") + where(fiber);
    before = &fiber;
  }
  fail(message);
}

bool run_block(Entry* entry, void** args, dim3 grid, dim3 size, uint3 at, unsigned dynamic) {
  Block b;
  block = &b;
  b.entry = entry;
  b.args = args;
  b.index = at;
  size_t threads = static_cast<size_t>(size.x) * size.y * size.z;
  b.fibers.resize(threads);
  b.ready.assign((threads + 31) / 32, 0);
  b.waiting = b.exited = b.ready;
  b.priority.resize(b.ready.size());
  std::iota(b.priority.begin(), b.priority.end(), 0);
  for (size_t i = b.priority.size(); i > 1; i--) std::swap(b.priority[i - 1], b.priority[random64() % i]);
  if (dynamic) {
    if (posix_memalign(&b.dynamic, 16, dynamic)) abort();
    memset(b.dynamic, 0xff, dynamic);
    b.shared.push_back({&b.dynamic, b.dynamic, dynamic});
  }
  for (size_t i = 0; i < threads; i++) prepare(b.fibers[i], static_cast<int>(i), grid, size, at);
  for (int thread; b.error.empty() && (thread = pick()) >= 0;) resume(thread);
  if (b.error.empty() && b.done < threads) report_deadlock();
  for (SharedMemory& s : b.shared) free(s.memory);
  last_error = b.error;
  block = nullptr;
  view = nullptr;
  return last_error.empty();
}

Entry* find(const char* name) {
  Entry* entry = Entry::first;
  while (entry && strcmp(entry->name, name) != 0) entry = entry->next;
  return entry;
}

bool refuse(const char* message) {
  last_error = message;
  return true;
}

// The limits of hardware. The least of the devices that are meant has 64 KiB of shared memory for a block.
bool is_refused(dim3 grid, dim3 size, unsigned dynamic) {
  size_t threads = static_cast<size_t>(size.x) * size.y * size.z;
  if (threads == 0 || threads > MOST_THREADS || size.z > 64) return refuse("a block has 1 to 1024 threads");
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    return refuse("a grid has 1 to 65535 blocks in y and z");
  }
  return dynamic > 64 << 10 && refuse("more than 64 KiB of dynamic shared memory");
}

}  // namespace

uint64_t random64() {
  uint64_t& x = options.random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return x;
}

void make_ready(int thread) {
  block->fibers[thread].state = READY;
  block->ready[thread / 32] |= 1u << (thread % 32);
}

void give_way() {
  Fiber* me = block->running;
  WITH_ASAN(__sanitizer_start_switch_fiber(me->state == EXITED ? nullptr : &me->fake_stack, block->scheduler_bottom,
                                           block->scheduler_bytes);)
  emu_switch(&me->stack_pointer, block->scheduler_stack);
  WITH_ASAN(__sanitizer_finish_switch_fiber(me->fake_stack, nullptr, nullptr);)
}

void may_give_way() {
  if (!options.preempt || random64() % options.preempt != 0) return;
  make_ready(static_cast<int>(block->running - block->fibers.data()));
  give_way();
}

bool on_a_stack(const void* address) {
  const char* at = static_cast<const char*>(address);
  return at >= stacks.arena && at < stacks.arena + MOST_THREADS * (STACK + GUARD);
}

void wait_for_previous() { block->running->waited = true; }

__attribute__((weak)) void launch_begins() {}
__attribute__((weak)) void forget(uintptr_t, size_t) {}

}  // namespace emu

using namespace emu;
extern "C" {

// Shaped as the driver's launch. Not 0: it failed, and emu_last_error says why.
int emu_launch(const char* name, const unsigned* grid, const unsigned* size, unsigned dynamic, void** args) {
  Entry* entry = find(name);
  if (!entry) return refuse("no such kernel");
  dim3 g{grid[0], grid[1], grid[2]}, s{size[0], size[1], size[2]};
  if (is_refused(g, s, dynamic)) return 1;
  launch_begins();
  all_waited = true;
  uint64_t blocks = static_cast<uint64_t>(g.x) * g.y * g.z, offset = random64() % blocks;
  uint64_t step = blocks < 3 ? 1 : 1 + random64() % (blocks - 1);
  while (std::gcd(step, blocks) != 1) step++;
  for (uint64_t i = 0; i < blocks; i++) {
    uint64_t k = (i * step + offset) % blocks;
    if (options.policy == IN_ORDER) k = i;
    if (options.policy == REVERSE) k = blocks - 1 - i;
    uint3 at{static_cast<unsigned>(k % g.x), static_cast<unsigned>(k / g.x % g.y),
             static_cast<unsigned>(k / (static_cast<uint64_t>(g.x) * g.y))};
    if (!run_block(entry, args, g, s, at, dynamic)) return 1;
  }
  return entry->overlaps && !all_waited && refuse("a thread ends and has not waited for the launch before");
}

void emu_forget(uintptr_t from, size_t bytes) { forget(from, bytes); }

const char* emu_last_error() { return last_error.c_str(); }

void emu_schedule(int policy, uint64_t seed, unsigned preempt) {
  options.policy = static_cast<Policy>(policy);
  options.random = seed * 2654435761u + 88172645463325252ull;
  options.preempt = preempt;
}

// How many parameters a kernel has, and the size of each; -1 if there is no such kernel.
int emu_parameters(const char* name, size_t* sizes) {
  Entry* entry = find(name);
  if (!entry) return -1;
  memcpy(sizes, entry->sizes, sizeof entry->sizes);
  return entry->parameters;
}
}
