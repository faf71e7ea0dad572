// Where threads meet: barriers of a block, operations of a warp. All rules of Volta and later are held strictly.
#include "runtime.h"

namespace emu {

std::string where(const Fiber& fiber) {
  static const char* const doing[] = {"is ready", "waits in __syncthreads", "waits in a warp operation", "has exited"};
  int thread = static_cast<int>(&fiber - block->fibers.data());
  std::string text = "thread " + std::to_string(thread) + " (warp " + std::to_string(thread / 32) + " lane " +
                     std::to_string(thread % 32) + ") " + doing[fiber.state];
  if (fiber.file) text += std::string(" at ") + fiber.file + ":" + std::to_string(fiber.line);
  return text;
}

void fail(const std::string& message) {
  if (!block->error.empty()) return;
  uint3 at = block->index;
  block->error = std::string("kernel ") + block->entry->name + " block (" + std::to_string(at.x) + "," +
                 std::to_string(at.y) + "," + std::to_string(at.z) + "): " + message;
}

// Lets the block go on if all of its threads are at the barrier. An exited thread is an error: hardware is laxer.
void check_barrier() {
  Block& b = *block;
  if (b.arrived == 0 || b.arrived + b.done < b.fibers.size()) return;
  Fiber* first = nullptr;
  for (Fiber& fiber : b.fibers) {
    if (fiber.state == AT_BARRIER && !first) first = &fiber;
  }
  uint64_t any = 0, all = 1, count = 0;
  for (Fiber& fiber : b.fibers) {
    if (fiber.state == EXITED || fiber.file != first->file || fiber.line != first->line) {
      return fail("divergent barrier: " + where(*first) + ", but " + where(fiber));
    }
    any |= fiber.value;
    all &= fiber.value;
    count += fiber.value;
  }
  b.arrived = 0;
  b.epoch++;
  for (size_t i = 0; i < b.fibers.size(); i++) {
    Fiber& fiber = b.fibers[i];
    fiber.result = fiber.kind == OR ? any : fiber.kind == AND ? all : count;
    make_ready(static_cast<int>(i));
  }
}

int barrier(BarrierKind kind, int predicate, const char* file, int line) {
  Fiber* me = block->running;
  me->state = AT_BARRIER;
  me->file = file;
  me->line = line;
  me->kind = kind;
  me->value = predicate != 0;
  block->arrived++;
  check_barrier();
  give_way();
  return static_cast<int>(me->result);
}

// What the lanes of `mask` did before is ordered before what they do after.
static void order(Fiber* lanes, unsigned mask) {
  unsigned clock[32] = {};
  for (unsigned m = mask; m; m &= m - 1) {
    int lane = __builtin_ctz(m);
    for (int j = 0; j < 32; j++) clock[j] = std::max(clock[j], lanes[lane].seen[j]);
    clock[lane] = std::max(clock[lane], lanes[lane].epoch);
  }
  for (unsigned m = mask; m; m &= m - 1) {
    Fiber& fiber = lanes[__builtin_ctz(m)];
    memcpy(fiber.seen, clock, sizeof clock);
    fiber.epoch++;
  }
}

// The lane that `lane` reads from in a shuffle.
static int source(const Fiber& fiber, int lane, int width) {
  int first = lane & ~(width - 1), arg = static_cast<int>(fiber.arg);
  switch (fiber.op) {
    case INDEX:
      return first + (arg & (width - 1));
    case UP:
      return lane - arg < first ? lane : lane - arg;
    case DOWN:
      return lane + arg >= first + width ? lane : lane + arg;
    default:
      return (lane ^ arg) >= first + width ? lane : lane ^ arg;
  }
}

// All lanes of the mask are here: gives each of them its result.
static void complete(Fiber* lanes, const Fiber& last, int width, void (*together)(void**)) {
  unsigned mask = last.mask, ballot = 0;
  for (unsigned m = mask; m; m &= m - 1) {
    int lane = __builtin_ctz(m);
    ballot |= static_cast<unsigned>(lanes[lane].value != 0) << lane;
  }
  if (last.op == COLLECTIVE) {
    void* mine[32];
    for (int lane = 0; lane < 32; lane++) mine[lane] = reinterpret_cast<void*>(lanes[lane].value);
    together(mine);
  }
  for (unsigned m = mask; m; m &= m - 1) {
    int lane = __builtin_ctz(m);
    Fiber& fiber = lanes[lane];
    if (last.op >= INDEX && last.op <= XOR) {
      int from = source(fiber, lane, width);
      if (!(mask >> from & 1)) return fail("shuffle reads a lane outside its mask: " + where(fiber));
      fiber.result = lanes[from].value;
    } else {
      fiber.result = last.op == BALLOT ? ballot : last.op == ANY ? ballot != 0 : ballot == mask;
    }
  }
}

uint64_t warp(Op op, unsigned mask, uint64_t value, unsigned arg, int width, const char* file, int line,
              void (*together)(void**)) {
  Block& b = *block;
  Fiber* me = b.running;
  int thread = static_cast<int>(me - b.fibers.data()), first = thread & ~31;
  me->state = IN_WARP;
  me->file = file;
  me->line = line;
  me->value = value;
  me->op = op;
  me->mask = mask;
  me->arg = arg;
  int count = std::min(32, static_cast<int>(b.fibers.size()) - first);
  unsigned there_are = count == 32 ? ~0u : (1u << count) - 1;
  if (!(mask >> (thread % 32) & 1)) fail("warp operation by a lane outside its own mask: " + where(*me));
  if (mask & ~there_are) fail("warp mask names lanes that do not exist: " + where(*me));
  unsigned& waiting = b.waiting[thread / 32];
  waiting |= 1u << (thread % 32);
  bool all = b.error.empty() && ((waiting | b.exited[thread / 32]) & mask) == mask;
  for (unsigned m = mask; all && m; m &= m - 1) {
    const Fiber& other = b.fibers[first + __builtin_ctz(m)];
    if (other.state == EXITED) fail("warp operation waits for an exited lane: " + where(*me) + ", but " + where(other));
    all = other.state == IN_WARP && other.file == file && other.line == line && other.op == op && other.mask == mask;
  }
  if (all) {
    waiting &= ~mask;
    complete(&b.fibers[first], *me, width, together);
    if (options.race) order(&b.fibers[first], mask);
    for (unsigned m = mask; m; m &= m - 1) make_ready(first + __builtin_ctz(m));
  }
  give_way();
  return me->result;
}

void* shared(const void* key, size_t bytes) {
  for (SharedMemory& s : block->shared) {
    if (s.key == key) return s.memory;
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, 16, bytes)) abort();
  memset(memory, 0xff, bytes);
  block->shared.push_back({key, memory, bytes});
  block->static_bytes += bytes;
  if (block->static_bytes > 48 << 10) fail("more than 48 KiB of static shared memory");
  return memory;
}

void* shared_dynamic() { return block->dynamic; }

void fence() { block->running->fenced = true; }

void trap(const char* file, int line) {
  Fiber* me = block->running;
  me->file = file;
  me->line = line;
  fail("__trap: " + where(*me));
  me->state = EXITED;
  give_way();
  abort();
}

}  // namespace emu
