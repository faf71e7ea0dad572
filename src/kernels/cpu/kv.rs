//! Keys and values of one sequence, in blocks of tokens: what is written never moves.
//!
//! Must not touch: scheduling.

use super::simd::{LANES, Lane};

/// Tokens of a block.
pub(super) const BLOCK_TOKENS: usize = 32;

/// What a model keeps of a token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

/// The keys and values of a sequence.
pub(crate) struct Kv {
    shape: KvShape,
    /// Each holds \[layer\]\[key or value\]\[head\]\[token\]\[lane\].
    blocks: Vec<Box<[Lane<f32>]>>,
}

impl KvShape {
    /// A head's key or value, with zeros up to a whole lane.
    pub(super) fn lanes(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }
}

impl Kv {
    pub(crate) fn new(shape: KvShape) -> Self {
        Self { shape, blocks: Vec::new() }
    }

    pub(super) fn shape(&self) -> KvShape {
        self.shape
    }

    /// Makes room for `tokens` in all.
    pub(crate) fn reserve(&mut self, tokens: usize) {
        let lanes = self.shape.layers * 2 * self.shape.heads * BLOCK_TOKENS * self.shape.lanes();
        while self.blocks.len() * BLOCK_TOKENS < tokens {
            self.blocks.push(vec![[0.0; LANES]; lanes].into_boxed_slice());
        }
    }

    /// Writes the key and the value, one head after the other, of the token at `position`, which has been reserved.
    pub(crate) fn write(&mut self, layer: usize, position: usize, key: &[f32], value: &[f32]) {
        let (lanes, head_dim) = (self.shape.lanes(), self.shape.head_dim);
        for (kind, all) in [key, value].into_iter().enumerate() {
            for (head, from) in all.chunks_exact(head_dim).enumerate() {
                let at = self.offset(layer, kind, head) + position % BLOCK_TOKENS * lanes;
                let to = &mut self.blocks[position / BLOCK_TOKENS][at..at + lanes];
                to.as_flattened_mut()[..head_dim].copy_from_slice(from);
            }
        }
    }

    /// The keys and the values of a block, token after token.
    pub(super) fn block(&self, layer: usize, head: usize, block: usize) -> [&[Lane<f32>]; 2] {
        let length = BLOCK_TOKENS * self.shape.lanes();
        [0, 1].map(|kind| &self.blocks[block][self.offset(layer, kind, head)..][..length])
    }

    /// Where a head begins in a block.
    fn offset(&self, layer: usize, kind: usize, head: usize) -> usize {
        ((layer * 2 + kind) * self.shape.heads + head) * BLOCK_TOKENS * self.shape.lanes()
    }
}
