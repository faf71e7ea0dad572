//! The KV cache of CPUs: a pool of KV blocks in f32.

use super::memory::Memory;
use super::simd::{LANES, Lane};
use crate::kv::{BLOCK_TOKENS, BlockId};

/// The shape of the keys and values of a token.
#[derive(Clone, Copy, Debug)]
pub struct KvShape {
    /// Transformer layers.
    pub layers: usize,
    /// KV heads per layer.
    pub heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
}

/// The keys and values of all sequences, block by block.
pub struct KvPool {
    shape: KvShape,
    /// Blocks side by side, those that were added together in one. A block holds \[layer\]\[key or value\]\[head\]\[token\]\[lane\].
    memory: Vec<Memory<Lane<f32>>>,
    /// Where each block is: in which of them, and from which lane on.
    places: Vec<(usize, usize)>,
}

impl KvShape {
    /// A head's key or value, with zeros up to a whole lane.
    pub(super) fn lanes(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Lanes of a block.
    fn block_lanes(&self) -> usize {
        self.layers * 2 * self.heads * BLOCK_TOKENS * self.lanes()
    }

    /// How many bytes a block takes.
    pub fn block_bytes(&self) -> usize {
        self.block_lanes() * size_of::<Lane<f32>>()
    }
}

impl KvPool {
    /// A pool of `blocks` blocks of zeros. Their addresses are reserved at once; the OS commits the memory of a block when it
    /// is first written.
    pub fn new(shape: KvShape, blocks: usize) -> Self {
        let mut pool = Self { shape, memory: Vec::new(), places: Vec::new() };
        pool.grow(blocks);
        pool
    }

    /// Adds blocks until there are `blocks`.
    pub fn grow(&mut self, blocks: usize) {
        let (lanes, number) = (self.shape.block_lanes(), self.memory.len());
        let more = blocks.saturating_sub(self.places.len());
        if more > 0 {
            self.memory.push(Memory::zeros(more * lanes));
            self.places.extend((0..more).map(|block| (number, block * lanes)));
        }
    }

    /// Overwrites a block with zeros.
    pub fn clear(&mut self, block: BlockId) {
        self.lanes_mut(block).fill([0.0; LANES]);
    }

    /// Layers, heads and head size.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// The number of blocks.
    pub fn block_count(&self) -> usize {
        self.places.len()
    }

    fn lanes(&self, block: BlockId) -> &[Lane<f32>] {
        let (number, first) = self.places[block.0 as usize];
        &self.memory[number][first..][..self.shape.block_lanes()]
    }

    fn lanes_mut(&mut self, block: BlockId) -> &mut [Lane<f32>] {
        let (number, first) = self.places[block.0 as usize];
        let lanes = self.shape.block_lanes();
        &mut self.memory[number][first..][..lanes]
    }

    /// Writes the key and the value, one head after the other, of the token at `position` of the sequence whose
    /// blocks are `table`.
    pub fn write(&mut self, layer: usize, table: &[BlockId], position: usize, key: &[f32], value: &[f32]) {
        let (lanes, head_dim) = (self.shape.lanes(), self.shape.head_dim);
        let block = table[position / BLOCK_TOKENS];
        for (kind, all) in [key, value].into_iter().enumerate() {
            for (head, from) in all.chunks_exact(head_dim).enumerate() {
                let at = self.offset(layer, kind, head) + position % BLOCK_TOKENS * lanes;
                let to = &mut self.lanes_mut(block)[at..at + lanes];
                to.as_flattened_mut()[..head_dim].copy_from_slice(from);
            }
        }
    }

    /// The keys and the values of a block, token after token.
    pub(super) fn block(&self, layer: usize, head: usize, block: BlockId) -> [&[Lane<f32>]; 2] {
        let length = BLOCK_TOKENS * self.shape.lanes();
        let lanes = self.lanes(block);
        [0, 1].map(|kind| &lanes[self.offset(layer, kind, head)..][..length])
    }

    /// Where a head begins in a block.
    fn offset(&self, layer: usize, kind: usize, head: usize) -> usize {
        ((layer * 2 + kind) * self.shape.heads + head) * BLOCK_TOKENS * self.shape.lanes()
    }
}
