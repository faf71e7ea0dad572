// The race checker. Kernels are compiled with -fsanitize=thread, but these hooks are linked in place of its library:
// every load and store of a kernel arrives here. Two accesses to a byte, one of them a write, are a race unless a
// barrier, a warp operation, a fence with an atomic, or the end of a launch lies between, whatever the schedule.
#include <dlfcn.h>

#include <cstdio>
#include <memory>
#include <unordered_map>

#include "runtime.h"

namespace emu {
namespace {

struct Access {
  unsigned launch = 0, block = 0, epoch = 0, lane_epoch = 0;
  unsigned short thread = 0;
  bool atomic = false;
};
// The last write, the last read, and the last read before it by another warp.
struct Cell {
  Access write, read, other_read;
};
struct Page {
  Cell cells[4096];
};

thread_local std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
thread_local uintptr_t last_number = ~uintptr_t{0};
thread_local Page* last_page;
thread_local unsigned launch = 1;
// Which blocks have done an atomic after a fence, by the address of the atomic.
thread_local std::unordered_map<uintptr_t, std::vector<unsigned>> released;

Cell& cell(uintptr_t address) {
  uintptr_t number = address >> 12;
  if (number != last_number) {
    auto& page = pages[number];
    if (!page) page = std::make_unique<Page>();
    last_number = number;
    last_page = page.get();
  }
  return last_page->cells[address & 4095];
}

bool is_ordered(const Access& before, const Fiber& me, const Access& now) {
  if (before.launch != now.launch) return true;
  if (before.block != now.block) return block->acquired.count(before.block) != 0;
  if (before.thread == now.thread || before.epoch < now.epoch) return true;
  return before.thread / 32 == now.thread / 32 && me.seen[before.thread % 32] >= before.lane_epoch;
}

std::string addr2line(const void* place) {
  Dl_info info{};
  dladdr(place, &info);
  char text[64];
  snprintf(text, sizeof text, "addr2line %#zx",
           static_cast<size_t>(static_cast<const char*>(place) - static_cast<const char*>(info.dli_fbase) - 1));
  return text;
}

void report(const char* kind, bool shared, const Access& before, const Access& now, const void* place) {
  char text[256];
  snprintf(text, sizeof text, "race on %s memory (%s): thread %u against thread %u of %s; ",
           shared ? "shared" : "global", kind, now.thread, before.thread,
           before.block == now.block ? "the same block" : "another block");
  fail(text + addr2line(place));
}

// A thread's indices lie where a block before may have had its shared memory.
bool is_of_the_emulator(const Block* b, const void* address) {
  return address >= b->fibers.data() && address < b->fibers.data() + b->fibers.size();
}

void access(const void* address, size_t bytes, bool write, bool atomic, const void* place) {
  Block* b = block;
  if (!b || !b->running || !b->error.empty() || on_a_stack(address) || is_of_the_emulator(b, address)) return;
  may_give_way();
  const Fiber& me = *b->running;
  bool shared = false;
  for (const SharedMemory& s : b->shared) {
    shared |= address >= s.memory && address < static_cast<char*>(s.memory) + s.bytes;
  }
  unsigned number = b->index.x + 65536u * b->index.y + 2654435761u * b->index.z;
  auto thread = static_cast<unsigned short>(&me - b->fibers.data());
  Access now{launch, number, b->epoch, me.epoch, thread, atomic};
  if (atomic && write && me.fenced) {
    auto& blocks = released[reinterpret_cast<uintptr_t>(address)];
    b->acquired.insert(blocks.begin(), blocks.end());
    blocks.push_back(number);
  }
  if (!shared && b->entry->overlaps && !me.waited) {
    bool too_early = write;
    for (size_t i = 0; i < bytes; i++) {
      too_early |= cell(reinterpret_cast<uintptr_t>(address) + i).write.launch != 0;
    }
    if (too_early) {
      return fail("thread " + std::to_string(thread) + (write ? " writes" : " reads what a launch has written") +
                  " before it waits for the launch before; " + addr2line(place));
    }
  }
  for (size_t i = 0; i < bytes; i++) {
    Cell& c = cell(reinterpret_cast<uintptr_t>(address) + i);
    // Shared memory is born again with each block.
    for (Access* before : {&c.write, &c.read, &c.other_read}) {
      if (shared && before->block != number) *before = Access();
    }
    auto races = [&](const Access& before) { return !(atomic && before.atomic) && !is_ordered(before, me, now); };
    if (races(c.write)) return report(write ? "write after write" : "read after write", shared, c.write, now, place);
    if (write && races(c.read)) return report("write after read", shared, c.read, now, place);
    if (write && races(c.other_read)) return report("write after read", shared, c.other_read, now, place);
    if (write) {
      c.write = now;
      continue;
    }
    if (c.read.launch && (c.read.block != number || c.read.thread / 32 != thread / 32)) c.other_read = c.read;
    c.read = now;
  }
}

}  // namespace

void forget(uintptr_t from, size_t bytes) {
  for (uintptr_t at = from; at < from + bytes;) {
    uintptr_t end = std::min(from + bytes, (at | 4095) + 1);
    auto page = pages.find(at >> 12);
    if (page != pages.end()) {
      std::fill(page->second->cells + (at & 4095), page->second->cells + (at & 4095) + (end - at), Cell());
    }
    at = end;
  }
}

void launch_begins() {
  released.clear();
  launch++;
  options.race = true;
}

}  // namespace emu

#define PLACE __builtin_return_address(0)
#define HOOK(name, bytes, write) \
  extern "C" void __tsan_##name##bytes(void* at) { emu::access(at, bytes, write, false, PLACE); }
#define HOOKS(bytes)                   \
  HOOK(read, bytes, false)             \
  HOOK(write, bytes, true)             \
  HOOK(unaligned_read, bytes, false)   \
  HOOK(unaligned_write, bytes, true)   \
  HOOK(volatile_read, bytes, false)    \
  HOOK(volatile_write, bytes, true)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

// The scheduler runs fibers one at a time, so the accesses themselves can be plain.
#define ATOMIC_HOOKS(bits)                                                                              \
  extern "C" uint##bits##_t __tsan_atomic##bits##_load(const uint##bits##_t* at, int) {                 \
    emu::access(at, bits / 8, false, true, PLACE);                                                      \
    return *at;                                                                                         \
  }                                                                                                     \
  extern "C" uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(                                 \
      uint##bits##_t* at, uint##bits##_t expected, uint##bits##_t wanted, int, int) {                   \
    emu::access(at, bits / 8, true, true, PLACE);                                                       \
    uint##bits##_t old = *at;                                                                           \
    if (old == expected) *at = wanted;                                                                  \
    return old;                                                                                         \
  }                                                                                                     \
  extern "C" bool __tsan_atomic##bits##_compare_exchange_strong(                                        \
      uint##bits##_t* at, uint##bits##_t* expected, uint##bits##_t wanted, int, int) {                  \
    emu::access(at, bits / 8, true, true, PLACE);                                                       \
    bool same = *at == *expected;                                                                       \
    *(same ? at : expected) = same ? wanted : *at;                                                      \
    return same;                                                                                        \
  }
ATOMIC_HOOKS(32)
ATOMIC_HOOKS(64)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_read_range(void* at, size_t bytes) { emu::access(at, bytes, false, false, PLACE); }
void __tsan_write_range(void* at, size_t bytes) { emu::access(at, bytes, true, false, PLACE); }
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  emu::access(from, bytes, false, false, PLACE);
  emu::access(to, bytes, true, false, PLACE);
  return memcpy(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  emu::access(to, bytes, true, false, PLACE);
  return memset(to, value, bytes);
}
}
