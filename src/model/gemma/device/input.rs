//! The input of a step beside weights and KV cache, packed into one array of words, so that it is one copy to the device.

use std::ops::Range;

use codeseal_kernels::cuda::{Buffer, Device, DeviceError, NO_TOKEN, Places, SAMPLER_WORDS, View};
use codeseal_kernels::kv::BlockId;
use codeseal_kernels::sampling::RowSampler;

use super::super::batch::Slice;

/// A position or block that is not in use: all bits set, as the kernels read it.
const UNUSED: u32 = u32::MAX;

/// The sizes of a step's parts, and so where they are in the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StepLayout {
    pub(super) rows: usize,
    /// Rows after which a token is sampled, if not all.
    pub(super) sampled: Option<usize>,
    /// Sequences whose prompt is read.
    pub(super) prompts: usize,
    /// All sequences.
    pub(super) slots: usize,
    /// The longest block table.
    pub(super) table_width: usize,
}

impl StepLayout {
    /// A decode step of `rows`, all of which are sampled, each with room for a sequence of its own.
    pub(super) fn decode(rows: usize, table_width: usize) -> Self {
        Self { rows, sampled: None, prompts: 0, slots: rows, table_width }
    }

    /// The number of words.
    pub(super) fn words(self) -> usize {
        self.tables().end
    }

    pub(super) fn ids(self) -> Range<usize> {
        0..self.rows
    }

    pub(super) fn positions(self) -> Range<usize> {
        self.rows..2 * self.rows
    }

    fn slots(self) -> Range<usize> {
        2 * self.rows..3 * self.rows
    }

    /// The sampler of each sampled row.
    pub(super) fn samplers(self) -> Range<usize> {
        let start = self.slots().end;
        start..start + SAMPLER_WORDS * self.sampled.unwrap_or(self.rows)
    }

    /// The position of each sampled row; the same list as of all rows where all are sampled.
    pub(super) fn sampled_positions(self) -> Range<usize> {
        let end = self.samplers().end;
        self.sampled.map_or(self.positions(), |sampled| end..end + sampled)
    }

    /// The sampled rows, if not all.
    pub(super) fn sampled_rows(self) -> Range<usize> {
        let (end, sampled) = (self.samplers().end, self.sampled.unwrap_or(0));
        end + sampled..end + 2 * sampled
    }

    /// Where the rows of each prompt begin.
    pub(super) fn starts(self) -> Range<usize> {
        let start = self.sampled_rows().end;
        start..start + if self.prompts > 0 { self.prompts + 1 } else { 0 }
    }

    fn tables(self) -> Range<usize> {
        let start = self.starts().end;
        start..start + self.slots * self.table_width
    }

    /// The places of the rows, once the words are on the device.
    pub(super) fn places<D: Device>(self, words: &Buffer<D, u32>) -> Result<Places<'_>, DeviceError> {
        let part = |range| words.view().part(range).map(View::signed);
        Ok(Places {
            slots: part(self.slots())?,
            positions: part(self.positions())?,
            tables: part(self.tables())?,
            table_width: self.table_width,
        })
    }
}

/// The words of a step. Not to be printed: token ids are text.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct StepWords {
    pub(super) layout: StepLayout,
    pub(super) words: Vec<u32>,
}

impl StepWords {
    /// Rows that are not in use.
    pub(super) fn unused(layout: StepLayout) -> Self {
        let mut words = vec![0; layout.words()];
        for range in [layout.positions(), layout.sampled_positions(), layout.tables()] {
            words[range].fill(UNUSED);
        }
        Self { layout, words }
    }

    /// A decode step, padded with rows that are not in use.
    pub(super) fn decode(layout: StepLayout, batch: &[Slice<'_>], samplers: &[RowSampler]) -> Self {
        let mut all = Self::unused(layout);
        let mut row = 0;
        for (slot, slice) in batch.iter().enumerate() {
            all.set_table(slot, slice.blocks);
            for (position, token) in (slice.position..).zip(slice.tokens) {
                all.set_row(row, token.0, position, slot);
                row += 1;
            }
        }
        for (row, sampler) in samplers.iter().enumerate() {
            all.set_sampler(row, sampler);
        }
        all
    }

    pub(super) fn set_row(&mut self, row: usize, id: u32, position: usize, slot: usize) {
        let StepLayout { rows, .. } = self.layout;
        self.words[row] = id;
        self.words[rows + row] = position as u32;
        self.words[2 * rows + row] = slot as u32;
    }

    pub(super) fn set_table(&mut self, slot: usize, blocks: &[BlockId]) {
        let StepLayout { table_width, .. } = self.layout;
        let start = self.layout.tables().start + slot * table_width;
        for (word, block) in self.words[start..start + table_width].iter_mut().zip(blocks) {
            *word = block.0;
        }
    }

    pub(super) fn set_sampler(&mut self, sampled: usize, sampler: &RowSampler) {
        let start = self.layout.samplers().start + sampled * SAMPLER_WORDS;
        self.words[start..start + SAMPLER_WORDS].copy_from_slice(&sampler.words());
    }

    /// What the device makes of a decode step's words when these tokens have been sampled: `feed_back` in `sample.cu`.
    pub(super) fn advance(&mut self, sampled: &[u32]) {
        let rows = self.layout.rows;
        let (ids, rest) = self.words.split_at_mut(rows);
        for ((id, position), token) in ids.iter_mut().zip(rest).zip(sampled) {
            if *position == UNUSED || *token == NO_TOKEN {
                *position = UNUSED;
            } else {
                (*id, *position) = (*token, *position + 1);
            }
        }
    }
}
