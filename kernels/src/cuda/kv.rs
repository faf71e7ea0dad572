//! The KV cache on a device, and where each row of a batch finds its blocks: `paged.cuh`, where KV blocks are called pages.
//!
//! All that changes from step to step is in the device's memory, so the launches of a step are the same each time.

use std::ops::Range;

use super::launch::{Arg, DeviceError, count, require};
use super::memory::View;
use crate::kv::BLOCK_TOKENS;

/// Numbers per head: the only head size that the kernels are written for, Gemma's.
pub const HEAD: usize = 256;

/// The heads and layers that KV blocks are laid out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Layers of the model.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// KV heads.
    pub kv_heads: usize,
}

impl KvLayout {
    /// Numbers per block: \[layer\]\[key or value\]\[head\]\[token\]\[number\].
    pub fn block_numbers(self) -> usize {
        self.layers * self.layer_numbers()
    }

    /// Numbers per row of queries, keys and values, in this order.
    pub fn row_numbers(self) -> usize {
        (self.heads + 2 * self.kv_heads) * HEAD
    }

    fn layer_numbers(self) -> usize {
        2 * self.kv_heads * BLOCK_TOKENS * HEAD
    }
}

/// Where the rows of a batch are in their texts, and where these are in the pool.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// For each row the slot of its text.
    pub slots: View<'a, i32>,
    /// For each row its position in that text; -1 for a row that is not in use.
    pub positions: View<'a, i32>,
    /// For each slot the block table of its text: `table_width` block indices.
    pub tables: View<'a, i32>,
    /// The longest block table.
    pub table_width: usize,
}

impl Places<'_> {
    /// The rows in `range`.
    ///
    /// # Errors
    /// The range is out of bounds.
    pub fn part(self, range: Range<usize>) -> Result<Self, DeviceError> {
        Ok(Self { slots: self.slots.part(range.clone())?, positions: self.positions.part(range)?, ..self })
    }
}

/// A layer of the model, for the rows of a batch.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// The layout of a block.
    pub layout: KvLayout,
    /// The layer's number.
    pub number: usize,
    /// Where the rows are.
    pub places: Places<'a>,
}

impl Layer<'_> {
    /// How many rows there are.
    pub(super) fn rows(&self) -> usize {
        self.places.positions.len()
    }

    /// The arguments that all kernels over KV blocks begin with, from the slots on.
    pub(super) fn args(&self, kernel: &'static str, pool_numbers: usize) -> Result<[Arg; 8], DeviceError> {
        let Self { layout, number, places } = *self;
        let block = layout.block_numbers();
        require(block > 0 && pool_numbers.is_multiple_of(block), kernel, "the pool is not whole blocks")?;
        require(number < layout.layers, kernel, "there is no such layer")?;
        require(layout.heads.is_multiple_of(layout.kv_heads), kernel, "heads do not share keys evenly")?;
        require(places.slots.len() == self.rows(), kernel, "slots and positions differ in number")?;
        require(
            places.table_width > 0 && places.tables.len().is_multiple_of(places.table_width),
            kernel,
            "the tables are not whole rows",
        )?;
        Ok([
            places.slots.arg(),
            places.positions.arg(),
            places.tables.arg(),
            count(kernel, places.tables.len() / places.table_width)?.into(),
            count(kernel, places.table_width)?.into(),
            count(kernel, pool_numbers / block)?.into(),
            count(kernel, block)?.into(),
            count(kernel, number * layout.layer_numbers())?.into(),
        ])
    }
}
