// Keys and values in pages that never move, and where each row of a batch finds its own. A page is a KV block of the host's
// code (`BlockId`, `BLOCK_TOKENS`): here a block is a group of threads.
//
// A page holds [layer][key or value][head][token][number], so that it is one piece of memory to the allocator. A row is one token: `slots` says whose it is, `positions` where in that text; -1 is a row that is not in use.
// All of it is read on the device, so the same launches serve for every step.
#pragma once
#include "common.cuh"

struct Paged {
  const int* slots;
  const int* positions;
  const int* tables;  // for each slot the pages of its text, in order
  int slot_count;
  int table_width;
  int page_count;
  int page_numbers;  // numbers of a page
  int layer_offset;  // where the layer begins in a page
};

// Kernels take these one by one: the emulator and the driver check sizes of numbers and addresses.
#define PAGED_PARAMETERS                                                                                      \
  const int *slots, const int *positions, const int *tables, int slot_count, int table_width, int page_count, \
      int page_numbers, int layer_offset
#define PAGED_ARGUMENTS \
  Paged { slots, positions, tables, slot_count, table_width, page_count, page_numbers, layer_offset }

// Where a token's key for the layer's first head begins in the pool. Wrong tables stop the device: behind them are
// other people's texts.
__device__ __forceinline__ size_t token_offset(const Paged& paged, int slot, int position) {
  int index = position / PAGE_TOKENS;
  if (slot < 0 || slot >= paged.slot_count || index >= paged.table_width) __trap();
  int page = __ldg(paged.tables + static_cast<size_t>(slot) * paged.table_width + index);
  if (page < 0 || page >= paged.page_count) __trap();
  return static_cast<size_t>(page) * paged.page_numbers + paged.layer_offset + position % PAGE_TOKENS * HEAD;
}
