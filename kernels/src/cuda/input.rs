//! What a step reads beside weights, keys and values, packed into one list of words, so that it is one copy.
//!
//! Must not touch: launches.

use std::ops::Range;

use super::memory::{Buffer, Device, View};
use super::sample::{CHOICE_WORDS, NO_TOKEN};
use super::{DeviceError, Places};
use crate::sampling::Choice;

/// A position that is none, or a page: all bits, as the kernels know it.
const NONE: u32 = u32::MAX;

/// What a text adds in a step. Not to be printed, like all here that holds token ids: they are text.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// The tokens.
    pub ids: &'a [u32],
    /// Where the first of them stands. All before it has been read.
    pub position: usize,
    /// How many of them, counted from the last, are not of the prompt: generated or guessed.
    pub generated: usize,
    /// The pages of the text, in order, these tokens' included.
    pub pages: &'a [u32],
    /// After how many of them, counted from the last, a token is chosen.
    pub wanted: usize,
}

/// How many of everything a step has, and so where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) rows: usize,
    /// Rows after which a token is chosen, if they are not all.
    pub(super) scored: Option<usize>,
    /// Texts of which a prompt is read.
    pub(super) prompts: usize,
    /// All texts.
    pub(super) slots: usize,
    pub(super) table_width: usize,
}

impl Layout {
    /// A batch of `rows` that all choose, each with room for a text of its own.
    pub(super) fn batch(rows: usize, table_width: usize) -> Self {
        Self { rows, scored: None, prompts: 0, slots: rows, table_width }
    }

    /// How many words there are.
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

    /// For each scored row how it chooses.
    pub(super) fn choices(self) -> Range<usize> {
        let start = self.slots().end;
        start..start + CHOICE_WORDS * self.scored.unwrap_or(self.rows)
    }

    /// For each scored row its position once more; the same list where all are scored.
    pub(super) fn scored_positions(self) -> Range<usize> {
        let end = self.choices().end;
        self.scored.map_or(self.positions(), |scored| end..end + scored)
    }

    /// Which rows are scored, if they are not all.
    pub(super) fn scored_rows(self) -> Range<usize> {
        let (end, scored) = (self.choices().end, self.scored.unwrap_or(0));
        end + scored..end + 2 * scored
    }

    /// Which rows are whose prompt.
    pub(super) fn starts(self) -> Range<usize> {
        let start = self.scored_rows().end;
        start..start + if self.prompts > 0 { self.prompts + 1 } else { 0 }
    }

    fn tables(self) -> Range<usize> {
        let start = self.starts().end;
        start..start + self.slots * self.table_width
    }

    /// Where the rows are, once the words are on the device.
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

/// The words of a step.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) layout: Layout,
    pub(super) words: Vec<u32>,
}

impl Words {
    /// Rows that are not in use.
    pub(super) fn unused(layout: Layout) -> Self {
        let mut words = vec![0; layout.words()];
        for range in [layout.positions(), layout.scored_positions(), layout.tables()] {
            words[range].fill(NONE);
        }
        Self { layout, words }
    }

    /// A batch of texts each of whose rows chooses, filled up with rows that are not in use.
    pub(super) fn batch(layout: Layout, texts: &[Text<'_>], choices: &[Choice]) -> Self {
        let mut all = Self::unused(layout);
        let mut row = 0;
        for (slot, text) in texts.iter().enumerate() {
            all.set_table(slot, text.pages);
            for (position, id) in (text.position..).zip(text.ids) {
                all.set_row(row, *id, position, slot);
                row += 1;
            }
        }
        for (row, choice) in choices.iter().enumerate() {
            all.set_choice(row, choice);
        }
        all
    }

    pub(super) fn set_row(&mut self, row: usize, id: u32, position: usize, slot: usize) {
        let Layout { rows, .. } = self.layout;
        self.words[row] = id;
        self.words[rows + row] = position as u32;
        self.words[2 * rows + row] = slot as u32;
    }

    pub(super) fn set_table(&mut self, slot: usize, pages: &[u32]) {
        let start = self.layout.tables().start + slot * self.layout.table_width;
        let pages = pages.get(..self.layout.table_width).unwrap_or(pages);
        self.words[start..start + pages.len()].copy_from_slice(pages);
    }

    pub(super) fn set_choice(&mut self, scored: usize, choice: &Choice) {
        let start = self.layout.choices().start + scored * CHOICE_WORDS;
        self.words[start..start + CHOICE_WORDS].copy_from_slice(&choice.words());
    }

    /// What the device makes of a batch's words when its rows have chosen these tokens: `feed_back` in `sample.cu`.
    pub(super) fn advance(&mut self, chosen: &[u32]) {
        let rows = self.layout.rows;
        let (ids, rest) = self.words.split_at_mut(rows);
        for ((id, position), chosen) in ids.iter_mut().zip(rest).zip(chosen) {
            if *position == NONE || *chosen == NO_TOKEN {
                *position = NONE;
            } else {
                (*id, *position) = (*chosen, *position + 1);
            }
        }
    }
}
