//! Keys and values in pages on the device, and where each row of a batch finds its own: `paged.cuh`.
//!
//! All that changes from step to step is in the device's memory, so the launches of a step are the same each time.
//! Must not touch: who owns which page.

use std::ops::Range;

use super::launch::{Arg, DeviceError, count, require};
use super::memory::View;

/// Tokens of a page.
pub const PAGE_TOKENS: usize = 32;
/// Numbers of a head: Gemma's only size.
pub const HEAD: usize = 256;

/// The heads and layers that pages are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Layers of the model.
    pub layers: usize,
    /// Heads that ask.
    pub heads: usize,
    /// Heads that are asked.
    pub kv_heads: usize,
}

impl KvLayout {
    /// How many numbers a page holds: \[layer\]\[key or value\]\[head\]\[token\]\[number\].
    pub fn page_numbers(self) -> usize {
        self.layers * self.layer_numbers()
    }

    /// How many numbers of a row are queries, keys and values, in this order.
    pub fn row_numbers(self) -> usize {
        (self.heads + 2 * self.kv_heads) * HEAD
    }

    fn layer_numbers(self) -> usize {
        2 * self.kv_heads * PAGE_TOKENS * HEAD
    }
}

/// Where the rows of a batch are in their texts, and where these are in the pool.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    /// For each row the slot of its text.
    pub slots: View<'a, i32>,
    /// For each row its position in that text; -1 for a row that is not in use.
    pub positions: View<'a, i32>,
    /// For each slot the pages of its text, in order: `table_width` of them.
    pub tables: View<'a, i32>,
    /// How many pages a text can have.
    pub table_width: usize,
}

impl Places<'_> {
    /// The rows in `range`.
    ///
    /// # Errors
    /// There are not so many.
    pub fn part(self, range: Range<usize>) -> Result<Self, DeviceError> {
        Ok(Self { slots: self.slots.part(range.clone())?, positions: self.positions.part(range)?, ..self })
    }
}

/// A layer of the model, for the rows of a batch.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    /// What pages are made for.
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

    /// The arguments that all kernels over pages begin with, from the slots on.
    pub(super) fn args(&self, kernel: &'static str, pool_numbers: usize) -> Result<[Arg; 8], DeviceError> {
        let Self { layout, number, places } = *self;
        let page = layout.page_numbers();
        require(page > 0 && pool_numbers.is_multiple_of(page), kernel, "the pool is not whole pages")?;
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
            count(kernel, pool_numbers / page)?.into(),
            count(kernel, page)?.into(),
            count(kernel, number * layout.layer_numbers())?.into(),
        ])
    }
}
