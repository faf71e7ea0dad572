//! Keys and values in the engine's KV blocks.

use candle_core::{DType, Result, Tensor};
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

use super::place::Place;
use crate::model::gemma::batch::Slice;
use crate::model::gemma::config::Config;

/// Keys and values of all layers in f32: two tensors `[slots, num_kv_heads, head_dim]` for each, where a slot is a block's
/// room for one token.
pub(crate) struct Cache {
    layers: Vec<[Tensor; 2]>,
    /// The number of blocks. Behind them is one of zeros, which is never written.
    blocks: usize,
    zeros: Tensor,
}

/// Where the keys and values of a slice are.
pub(super) struct Extent {
    /// Where its tokens are written: the first token, the slot that it goes to, and how many follow one another there.
    runs: Vec<(usize, usize, usize)>,
    /// The blocks of its sequence up to its last token, then blocks of zeros.
    blocks: Tensor,
}

impl Cache {
    /// The size of a block over all layers, in bytes.
    pub(super) fn block_bytes(config: &Config) -> usize {
        2 * config.num_layers * BLOCK_TOKENS * config.kv_width() * size_of::<f32>()
    }

    /// `blocks` blocks of zeros.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(super) fn new(config: &Config, blocks: usize, place: &Place) -> Result<Self> {
        let zeros = |blocks: usize| {
            let shape = (blocks * BLOCK_TOKENS, config.num_kv_heads, config.head_dim);
            Tensor::zeros(shape, DType::F32, place.device())
        };
        let layers = (0..config.num_layers).map(|_| Ok([zeros(blocks + 1)?, zeros(blocks + 1)?]));
        Ok(Self { layers: layers.collect::<Result<_>>()?, blocks, zeros: zeros(1)? })
    }

    /// The number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// Overwrites a block with zeros.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn clear(&mut self, block: BlockId) -> Result<()> {
        let slot = block.0 as usize * BLOCK_TOKENS;
        self.layers.iter().flatten().try_for_each(|cache| cache.slice_set(&self.zeros, 0, slot))
    }

    /// The sum of the magnitudes of all keys and values.
    #[cfg(test)]
    pub(super) fn magnitude(&self) -> f32 {
        let sum = |cache: &Tensor| cache.abs().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        self.layers.iter().flatten().map(sum).sum()
    }

    /// Where the keys and values of `slice` are. Its sequence is lengthened with zeros to whole multiples of `chunk` tokens.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn extent(&self, slice: &Slice<'_>, chunk: usize, place: &Place) -> Result<Extent> {
        let end = slice.position + slice.tokens.len();
        let mut runs = Vec::new();
        let mut position = slice.position;
        while position < end {
            let Some(block) = slice.blocks.get(position / BLOCK_TOKENS) else {
                candle_core::bail!("the sequence has too few KV blocks");
            };
            let (slot, offset) = (block.0 as usize * BLOCK_TOKENS, position % BLOCK_TOKENS);
            let count = (BLOCK_TOKENS - offset).min(end - position);
            runs.push((position - slice.position, slot + offset, count));
            position += count;
        }
        let used = slice.blocks.iter().take(end.div_ceil(BLOCK_TOKENS)).map(|block| block.0);
        let zeros = std::iter::repeat(self.blocks as u32);
        let count = end.next_multiple_of(chunk).div_ceil(BLOCK_TOKENS);
        let blocks: Vec<u32> = used.chain(zeros).take(count).collect();
        Ok(Extent { runs, blocks: Tensor::from_vec(blocks, count, place.device())? })
    }

    /// Writes the keys and values of a slice, `[tokens, num_kv_heads, head_dim]` each, in a layer.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn write(&mut self, layer: usize, to: &Extent, keys: &Tensor, values: &Tensor) -> Result<()> {
        for (cache, new) in self.layers.get(layer).into_iter().flatten().zip([keys, values]) {
            for &(first, slot, count) in &to.runs {
                cache.slice_set(&new.narrow(0, first, count)?.contiguous()?, 0, slot)?;
            }
        }
        Ok(())
    }

    /// Keys and values of a sequence in a layer, `[num_kv_heads, length, head_dim]` each.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn read(&self, layer: usize, from: &Extent) -> Result<[Tensor; 2]> {
        let read = |cache: &Tensor| {
            let (_, heads, width) = cache.dims3()?;
            let blocks = cache.reshape((self.blocks + 1, BLOCK_TOKENS, heads, width))?;
            let tokens = blocks.index_select(&from.blocks, 0)?.flatten(0, 1)?;
            tokens.transpose(0, 1)?.contiguous()
        };
        let Some([keys, values]) = self.layers.get(layer) else {
            return Err(candle_core::Error::msg("the KV cache has fewer layers"));
        };
        Ok([read(keys)?, read(values)?])
    }
}
