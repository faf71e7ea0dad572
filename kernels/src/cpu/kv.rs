//! The KV cache of CPUs: a pool of KV blocks, in f32 or f16.

use super::memory::{Memory, Plain};
use super::simd::{LANES, Lane, Simd};
use crate::kv::{BLOCK_TOKENS, BlockId};

/// The type of keys and values in memory. They are rounded once, when they are written, so a sequence has the same bits
/// whether it is read at once or in pieces, and from the prefix cache or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Four bytes a number, exact.
    F32,
    /// Two bytes a number. What is larger than f16 holds becomes its largest number, 65,504.
    F16,
}

/// The shape of the keys and values of a token, and their type.
#[derive(Clone, Copy, Debug)]
pub struct KvShape {
    /// Transformer layers.
    pub layers: usize,
    /// KV heads per layer.
    pub heads: usize,
    /// Numbers per head.
    pub head_dim: usize,
    /// How numbers are stored.
    pub kv_type: KvType,
}

/// The keys and values of all sequences, block by block.
pub struct KvPool {
    shape: KvShape,
    blocks: Blocks,
}

/// The blocks of a pool, by type.
pub(super) enum Blocks {
    F32(TypedBlocks<f32>),
    F16(TypedBlocks<u16>),
}

/// KV blocks of one type. A block holds \[layer\]\[key or value\]\[head\]\[token\]\[lane\].
pub(super) struct TypedBlocks<T> {
    shape: KvShape,
    /// Blocks side by side, those that were added together in one.
    memory: Vec<Memory<Lane<T>>>,
    /// Where each block is: in which of them, and from which lane on.
    places: Vec<(usize, usize)>,
}

/// A stored number.
pub(super) trait Stored: Plain {
    const ZERO: Self;

    fn store(from: &[f32], to: &mut [Self]);

    fn load<S: Simd>(simd: S, from: &Lane<Self>) -> S::V;
}

impl Stored for f32 {
    const ZERO: Self = 0.0;

    fn store(from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &Lane<Self>) -> S::V {
        simd.load(from)
    }
}

impl Stored for u16 {
    const ZERO: Self = 0;

    /// Infinities would leave NaN in the scores: they become the largest number. NaN stays NaN.
    fn store(from: &[f32], to: &mut [Self]) {
        let largest = f32::from(half::f16::MAX);
        for (to, from) in to.iter_mut().zip(from) {
            *to = half::f16::from_f32(from.clamp(-largest, largest)).to_bits();
        }
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &Lane<Self>) -> S::V {
        simd.load_f16(from)
    }
}

impl KvType {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<u16>(),
        }
    }
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
        self.block_lanes() * LANES * self.kv_type.bytes()
    }
}

impl KvPool {
    /// A pool of `blocks` blocks of zeros. Their addresses are reserved at once; the OS commits the memory of a block when it
    /// is first written.
    pub fn new(shape: KvShape, blocks: usize) -> Self {
        let typed = match shape.kv_type {
            KvType::F32 => Blocks::F32(TypedBlocks::new(shape)),
            KvType::F16 => Blocks::F16(TypedBlocks::new(shape)),
        };
        let mut pool = Self { shape, blocks: typed };
        pool.grow(blocks);
        pool
    }

    /// Adds blocks until there are `blocks`.
    pub fn grow(&mut self, blocks: usize) {
        match &mut self.blocks {
            Blocks::F32(typed) => typed.grow(blocks),
            Blocks::F16(typed) => typed.grow(blocks),
        }
    }

    /// Overwrites a block with zeros.
    pub fn clear(&mut self, block: BlockId) {
        match &mut self.blocks {
            Blocks::F32(typed) => typed.clear(block),
            Blocks::F16(typed) => typed.clear(block),
        }
    }

    /// Layers, heads, head size and type.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// The number of blocks.
    pub fn block_count(&self) -> usize {
        match &self.blocks {
            Blocks::F32(typed) => typed.places.len(),
            Blocks::F16(typed) => typed.places.len(),
        }
    }

    /// Writes the key and the value, one head after the other, of the token at `position` of the sequence whose
    /// blocks are `table`.
    pub fn write(&mut self, layer: usize, table: &[BlockId], position: usize, key: &[f32], value: &[f32]) {
        let (block, token) = (table[position / BLOCK_TOKENS], position % BLOCK_TOKENS);
        match &mut self.blocks {
            Blocks::F32(typed) => typed.write(layer, block, token, [key, value]),
            Blocks::F16(typed) => typed.write(layer, block, token, [key, value]),
        }
    }

    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }
}

impl<T: Stored> TypedBlocks<T> {
    fn new(shape: KvShape) -> Self {
        Self { shape, memory: Vec::new(), places: Vec::new() }
    }

    fn grow(&mut self, blocks: usize) {
        let (lanes, number) = (self.shape.block_lanes(), self.memory.len());
        let more = blocks.saturating_sub(self.places.len());
        if more > 0 {
            self.memory.push(Memory::zeros(more * lanes));
            self.places.extend((0..more).map(|block| (number, block * lanes)));
        }
    }

    fn clear(&mut self, block: BlockId) {
        self.lanes_mut(block).fill([T::ZERO; LANES]);
    }

    fn write(&mut self, layer: usize, block: BlockId, token: usize, keys_values: [&[f32]; 2]) {
        let (lanes, head_dim) = (self.shape.lanes(), self.shape.head_dim);
        for (kind, all) in keys_values.into_iter().enumerate() {
            for (head, from) in all.chunks_exact(head_dim).enumerate() {
                let at = self.offset(layer, kind, head) + token * lanes;
                let to = &mut self.lanes_mut(block)[at..at + lanes];
                T::store(from, &mut to.as_flattened_mut()[..head_dim]);
            }
        }
    }

    /// The keys and the values of a block, token after token.
    pub(super) fn block(&self, layer: usize, head: usize, block: BlockId) -> [&[Lane<T>]; 2] {
        let length = BLOCK_TOKENS * self.shape.lanes();
        let (number, first) = self.places[block.0 as usize];
        let lanes = &self.memory[number][first..][..self.shape.block_lanes()];
        [0, 1].map(|kind| &lanes[self.offset(layer, kind, head)..][..length])
    }

    fn lanes_mut(&mut self, block: BlockId) -> &mut [Lane<T>] {
        let (number, first) = self.places[block.0 as usize];
        let lanes = self.shape.block_lanes();
        &mut self.memory[number][first..][..lanes]
    }

    /// Where a head begins in a block.
    fn offset(&self, layer: usize, kind: usize, head: usize) -> usize {
        ((layer * 2 + kind) * self.shape.heads + head) * BLOCK_TOKENS * self.shape.lanes()
    }
}
