//! Matrices of weights in memory: packed into panels of sixteen rows, in the type of the file or quantized.
//!
//! A panel goes column by column, so one load gives sixteen rows the same columns, and a kernel reads memory in one
//! direction.
use half::{bf16, f16};
use rayon::prelude::*;

use super::Level;
use super::ggml::{Q8_0_BYTES, SMALL, Source};
use super::memory::{Memory, Plain};
use super::pack::{self, Panel};
use super::q4k::{self, FourBitBlock, Quantize};
use super::simd::{LANES, Lane};

/// Rows of a panel.
pub(super) const PANEL: usize = LANES;
/// Columns of an [`EightBitBlock`].
pub(super) const EIGHT_BIT_COLUMNS: usize = 2 * SMALL;

/// The type of a matrix in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As they are in an f32 file, and what an f16 file becomes: exact, and no machine multiplies f16 faster.
    F32,
    /// As they are in a bf16 file.
    Bf16,
    /// An i8 each, and an f16 scale for every 32.
    Q8_0,
    /// Four bits each, and for every 32 a scale and a minimum of six bits. Where rows are no multiple of 256 long,
    /// [`Format::Q8_0`] takes its place.
    Q4K,
}

/// A matrix of weights. Rows and columns are padded with zeros to whole panels and blocks.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub(super) store: Store,
    rows: usize,
    columns: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Store {
    /// For each column sixteen rows.
    F32(Memory<Lane<f32>>),
    /// For each two columns sixteen rows.
    Bf16(Memory<Lane<[u16; 2]>>),
    Q8(Memory<EightBitBlock>),
    Q4(Memory<FourBitBlock>),
}

/// 64 columns of sixteen rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct EightBitBlock {
    /// Of each 32 columns, as f16.
    pub(super) scales: [Lane<u16>; 2],
    /// Four columns for each row and step, each 128 more than it is.
    pub(super) quants: [[Lane<[u8; 4]>; SMALL / 4]; 2],
}

// SAFETY: integers, whose sizes add up to a multiple of the alignment.
unsafe impl Plain for EightBitBlock {}

impl Matrix {
    /// Zeros. Memory is taken when they are overwritten.
    pub fn zeros(format: Format, rows: usize, columns: usize) -> Self {
        let panels = rows.div_ceil(PANEL);
        let store = match format {
            Format::F32 => Store::F32(Memory::zeros(panels * columns)),
            Format::Bf16 => Store::Bf16(Memory::zeros(panels * columns.div_ceil(2))),
            Format::Q4K if columns.is_multiple_of(q4k::COLUMNS) => {
                Store::Q4(Memory::zeros(panels * columns / q4k::COLUMNS))
            }
            Format::Q8_0 | Format::Q4K => {
                Store::Q8(Memory::zeros(panels * columns.div_ceil(EIGHT_BIT_COLUMNS)))
            }
        };
        Self { store, rows, columns }
    }

    /// How many bytes the matrix takes that [`Matrix::zeros`] would make.
    pub fn bytes_of(format: Format, rows: usize, columns: usize) -> usize {
        let panels = rows.div_ceil(PANEL);
        match format {
            Format::F32 => panels * columns * size_of::<Lane<f32>>(),
            Format::Bf16 => panels * columns.div_ceil(2) * size_of::<Lane<[u16; 2]>>(),
            Format::Q4K if columns.is_multiple_of(q4k::COLUMNS) => {
                panels * columns / q4k::COLUMNS * size_of::<FourBitBlock>()
            }
            _ => panels * columns.div_ceil(EIGHT_BIT_COLUMNS) * size_of::<EightBitBlock>(),
        }
    }

    /// Converts or quantizes `bytes` of the type `source`, and packs them into the rows from `first` on, on all threads of the
    /// pool. Bytes that make no whole row are ignored.
    pub fn fill_rows(&mut self, first: usize, source: Source, bytes: &[u8]) {
        self.fill(Level::best(), first, source, bytes);
    }

    /// As [`Matrix::fill_rows`], with the instructions of `level`. Whole panels are packed at once, other rows one by one.
    pub(super) fn fill(&mut self, level: Level, first: usize, source: Source, bytes: &[u8]) {
        let (rows, columns) = (self.rows, self.columns);
        let Some(width) = source.bytes(columns) else { return };
        let rows = Rows { first, end: rows.min(first + bytes.len() / width), width, columns, source, bytes };
        match &mut self.store {
            Store::F32(to) => {
                let fill = |panel: &mut [Lane<f32>], lane: usize, bytes: &[u8]| {
                    for (to, number) in panel.iter_mut().zip(rows.numbers(bytes)) {
                        to[lane] = number;
                    }
                };
                rows.for_each(to, columns, |panel, to| pack::floats(level, panel, to), fill);
            }
            Store::Bf16(to) => {
                let fill = |panel: &mut [Lane<[u16; 2]>], lane: usize, bytes: &[u8]| {
                    if source == Source::Bf16 {
                        copy_pairs(panel, lane, bytes);
                        return;
                    }
                    for (to, pair) in panel.iter_mut().zip(rows.numbers(bytes).chunks(2)) {
                        for (to, &number) in to[lane].iter_mut().zip(pair) {
                            *to = bf16::from_f32(number).to_bits();
                        }
                    }
                };
                rows.for_each(to, columns.div_ceil(2), |panel, to| pack::pairs(level, panel, to), fill);
            }
            Store::Q8(to) => {
                let fill = |panel: &mut [EightBitBlock], lane: usize, bytes: &[u8]| {
                    if let Some(blocks) = source.as_q8_0(bytes) {
                        let blocks = blocks.chunks(2 * Q8_0_BYTES);
                        panel.iter_mut().zip(blocks).for_each(|(to, from)| to.copy(lane, from));
                    } else {
                        let numbers = rows.numbers(bytes);
                        let blocks = numbers.chunks(EIGHT_BIT_COLUMNS);
                        panel.iter_mut().zip(blocks).for_each(|(to, from)| to.quantize(lane, from));
                    }
                };
                let length = columns.div_ceil(EIGHT_BIT_COLUMNS);
                rows.for_each(to, length, |panel, to| pack::eights(level, panel, to), fill);
            }
            Store::Q4(to) if source == Source::Q4K => {
                let length = source.bytes(q4k::COLUMNS).unwrap_or(1);
                let fill = |panel: &mut [FourBitBlock], lane: usize, bytes: &[u8]| {
                    panel.iter_mut().zip(bytes.chunks(length)).for_each(|(to, from)| to.copy(lane, from));
                };
                rows.for_each(to, columns / q4k::COLUMNS, |panel, to| pack::fours(level, panel, to), fill);
            }
            Store::Q4(to) => rows.quantize(level, to),
        }
    }

    /// Writes the row `row` into `to`, times `factor`.
    pub fn read_row(&self, row: usize, factor: f32, to: &mut [f32]) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        let columns = self.columns;
        let panel_of = |length: usize| panel * length..(panel + 1) * length;
        match &self.store {
            Store::F32(from) => {
                for (to, from) in to.iter_mut().zip(&from[panel_of(columns)]) {
                    *to = from[lane] * factor;
                }
            }
            Store::Bf16(from) => {
                for (to, from) in to.chunks_mut(2).zip(&from[panel_of(columns.div_ceil(2))]) {
                    for (to, bits) in to.iter_mut().zip(from[lane]) {
                        *to = bf16::from_bits(bits).to_f32() * factor;
                    }
                }
            }
            Store::Q8(from) => {
                let blocks = &from[panel_of(columns.div_ceil(EIGHT_BIT_COLUMNS))];
                to.chunks_mut(EIGHT_BIT_COLUMNS)
                    .zip(blocks)
                    .for_each(|(to, from)| from.read(lane, factor, to));
            }
            Store::Q4(from) => {
                let blocks = &from[panel_of(columns / q4k::COLUMNS)];
                to.chunks_mut(q4k::COLUMNS).zip(blocks).for_each(|(to, from)| from.read(lane, factor, to));
            }
        }
    }

    /// The type of the matrix in memory. It is q8_0 where q4k was asked for and the columns do not fit it.
    pub fn format(&self) -> Format {
        match self.store {
            Store::F32(_) => Format::F32,
            Store::Bf16(_) => Format::Bf16,
            Store::Q8(_) => Format::Q8_0,
            Store::Q4(_) => Format::Q4K,
        }
    }

    /// The type that the weights have in memory, as it is called.
    pub fn weights_type(&self) -> &'static str {
        match self.format() {
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            Format::Q8_0 => "q8_0",
            Format::Q4K => "q4k",
        }
    }

    /// Rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns (inputs).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All bytes of the weights as they lie in memory.
    #[cfg(test)]
    pub(super) fn memory(&self) -> &[u8] {
        use super::memory::bytes;
        match &self.store {
            Store::F32(all) => bytes(all),
            Store::Bf16(all) => bytes(all),
            Store::Q8(all) => bytes(all),
            Store::Q4(all) => bytes(all),
        }
    }

    /// How many bytes the weights take.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::F32(all) => size_of_val::<[_]>(all),
            Store::Bf16(all) => size_of_val::<[_]>(all),
            Store::Q8(all) => size_of_val::<[_]>(all),
            Store::Q4(all) => size_of_val::<[_]>(all),
        }
    }
}

/// Rows on their way into a matrix.
struct Rows<'a> {
    first: usize,
    /// The one behind the last.
    end: usize,
    /// Bytes of a row.
    width: usize,
    columns: usize,
    source: Source,
    bytes: &'a [u8],
}

impl Rows<'_> {
    fn numbers(&self, bytes: &[u8]) -> Vec<f32> {
        let mut numbers = vec![0.0; self.columns];
        self.source.read(bytes, &mut numbers);
        numbers
    }

    /// All rows of a panel, whose bytes these are.
    fn panel<'b>(&self, bytes: &'b [u8]) -> Panel<'b> {
        Panel { source: self.source, bytes, width: self.width, columns: self.columns }
    }

    /// Calls `whole` with each panel, which has `length` elements, if all of its rows are there. Where they are not, or it says
    /// that it cannot pack them, `fill` gets the panel of each row, the row's lane in it, and its bytes.
    fn for_each<T: Plain>(
        &self,
        to: &mut [T],
        length: usize,
        whole: impl Fn(Panel<'_>, &mut [T]) -> bool + Sync,
        fill: impl Fn(&mut [T], usize, &[u8]) + Sync,
    ) {
        self.for_each_panel(to, length, |panel, first, bytes| {
            if self.is_whole(bytes) && whole(self.panel(bytes), panel) {
                return;
            }
            for (row, bytes) in bytes.chunks_exact(self.width).enumerate() {
                fill(panel, first + row, bytes);
            }
        });
    }

    /// Whether these are the bytes of all rows of a panel. Words are packed as they are in the file: little endian.
    fn is_whole(&self, bytes: &[u8]) -> bool {
        cfg!(target_endian = "little") && bytes.len() == PANEL * self.width
    }

    /// Calls `fill` with each panel, the lane of its first row, and the bytes of its rows.
    fn for_each_panel<T: Plain>(
        &self,
        to: &mut [T],
        length: usize,
        fill: impl Fn(&mut [T], usize, &[u8]) + Sync,
    ) {
        let panels = self.first / PANEL..self.end.div_ceil(PANEL);
        let to = &mut to[panels.start * length..panels.end * length];
        to.par_chunks_mut(length).zip(panels).for_each(|(panel, number)| {
            let start = number * PANEL;
            let (from, end) = (self.first.max(start), self.end.min(start + PANEL));
            let bytes = (from - self.first) * self.width..(end - self.first) * self.width;
            fill(panel, from - start, &self.bytes[bytes]);
        });
    }

    fn quantize(&self, level: Level, to: &mut [FourBitBlock]) {
        self.for_each_panel(to, self.columns / q4k::COLUMNS, |panel, first, bytes| {
            if self.is_whole(bytes) && pack::fours(level, self.panel(bytes), panel) {
                return;
            }
            let rows: Vec<_> = bytes.chunks_exact(self.width).map(|bytes| self.numbers(bytes)).collect();
            for (block, to) in panel.iter_mut().enumerate() {
                let mut numbers = [[0.0; LANES]; q4k::COLUMNS];
                for (lane, row) in (first..).zip(&rows) {
                    for (to, number) in numbers.iter_mut().zip(&row[block * q4k::COLUMNS..]) {
                        to[lane] = *number;
                    }
                }
                let mut chosen = *to;
                level.run(Quantize { numbers: &numbers, to: &mut chosen });
                to.merge(&chosen, first, rows.len());
            }
        });
    }
}

/// Takes over bf16 as the row `lane`.
fn copy_pairs(panel: &mut [Lane<[u16; 2]>], lane: usize, bytes: &[u8]) {
    for (to, pair) in panel.iter_mut().zip(bytes.chunks(4)) {
        to[lane] = match *pair {
            [a, b, c, d] => [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])],
            [a, b, ..] => [u16::from_le_bytes([a, b]), 0],
            _ => [0; 2],
        };
    }
}

impl EightBitBlock {
    /// Takes over one or two blocks of a file as the row `lane`.
    fn copy(&mut self, lane: usize, blocks: &[u8]) {
        for (half, block) in blocks.chunks_exact(Q8_0_BYTES).enumerate() {
            let Some((scale, quants)) = block.split_first_chunk() else { return };
            self.scales[half][lane] = u16::from_le_bytes(*scale);
            for (to, from) in self.quants[half].iter_mut().zip(quants.as_chunks::<4>().0) {
                to[lane] = from.map(|quant| quant ^ 0x80);
            }
        }
    }

    /// The nearest of 255 equidistant numbers for each of `numbers`, as the row `lane`. What is not finite makes a
    /// scale that is not: it must not turn into a plausible weight.
    fn quantize(&mut self, lane: usize, numbers: &[f32]) {
        for (half, numbers) in numbers.chunks(SMALL).enumerate() {
            let largest = numbers.iter().fold(0.0f32, |largest, number| {
                if number.is_finite() { largest.max(number.abs()) } else { f32::INFINITY }
            });
            self.scales[half][lane] = f16::from_f32(largest / 127.0).to_bits();
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for (to, four) in self.quants[half].iter_mut().zip(numbers.chunks(4)) {
                for (to, number) in to[lane].iter_mut().zip(four) {
                    *to = (round(number * inverse) as i8).cast_unsigned() ^ 0x80;
                }
            }
        }
    }

    /// The numbers of the row `lane`, times `factor`.
    fn read(&self, lane: usize, factor: f32, to: &mut [f32]) {
        for ((to, quants), scales) in to.chunks_mut(SMALL).zip(&self.quants).zip(&self.scales) {
            let scale = f16::from_bits(scales[lane]).to_f32();
            for (to, quants) in to.chunks_mut(4).zip(quants) {
                for (to, quant) in to.iter_mut().zip(quants[lane]) {
                    *to = scale * f32::from((quant ^ 0x80).cast_signed()) * factor;
                }
            }
        }
    }
}

/// To the nearest whole number, halves away from zero, as ggml does; up to 2²². Unlike [`f32::round`] it is no call.
#[inline(always)]
pub(super) fn round(value: f32) -> f32 {
    (value + 0.5f32.copysign(value)).trunc()
}
