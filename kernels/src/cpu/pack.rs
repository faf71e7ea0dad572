//! Sixteen rows of a file as a panel of a matrix, with SIMD.
//!
//! A file goes row by row and a panel column by column, so packing is a transposition: eight numbers of four bytes of all
//! rows at a time, which stay in registers. What is converted or quantized is first read as f32, 256 columns at a time, and
//! quantized for sixteen rows at once. The bits are those that [`super::matrix`] makes row by row.

use half::f16;

use super::Level;
use super::ggml::{LARGE, Q8_0_BYTES, SMALL, Source};
use super::matrix::{EightBitBlock, PANEL, round};
use super::memory::{bytes, words};
use super::q4k::{self, FourBitBlock};
use super::simd::{Kernel, LANES, Lane, Simd};

/// Numbers of four bytes that are transposed at a time.
const TILE: usize = 8;
/// Their bytes.
const TILE_BYTES: usize = 4 * TILE;

/// Sixteen rows of a file, one after the other.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    pub(super) source: Source,
    pub(super) bytes: &'a [u8],
    /// Bytes of a row.
    pub(super) width: usize,
    pub(super) columns: usize,
}

/// Packs numbers as f32. Says whether it could.
pub(super) fn floats(level: Level, panel: Panel<'_>, to: &mut [Lane<f32>]) -> bool {
    if panel.source == Source::F32 {
        level.run(Words { from: panel.bytes, stride: panel.width, to: words(to) });
        return true;
    }
    if !panel.columns.is_multiple_of(TILE) {
        return false;
    }
    level.run(Columns { panel, take: Copy(to) });
    true
}

/// Packs pairs of bf16. Says whether it could.
pub(super) fn pairs(level: Level, panel: Panel<'_>, to: &mut [Lane<[u16; 2]>]) -> bool {
    if panel.source != Source::Bf16 || !panel.columns.is_multiple_of(2) {
        return false;
    }
    level.run(Words { from: panel.bytes, stride: panel.width, to: words(to) });
    true
}

/// Packs blocks of eight bits, or quantizes to them. Says whether it could.
pub(super) fn eights(level: Level, panel: Panel<'_>, to: &mut [EightBitBlock]) -> bool {
    if !panel.columns.is_multiple_of(SMALL) {
        return false;
    }
    if let Some(blocks) = panel.source.as_q8_0(panel.bytes) {
        let stride = panel.columns / SMALL * Q8_0_BYTES;
        level.run(Eights { from: &blocks, stride, to });
    } else {
        level.run(Columns { panel, take: QuantizeEights(to) });
    }
    true
}

/// Packs blocks of four bits, or quantizes to them.
pub(super) fn fours(level: Level, panel: Panel<'_>, to: &mut [FourBitBlock]) -> bool {
    if panel.source == Source::Q4K {
        level.run(Fours { from: panel.bytes, stride: panel.width, to });
    } else {
        level.run(Columns { panel, take: QuantizeFours(to) });
    }
    true
}

/// Numbers of four bytes, or two of two bytes, as they are.
struct Words<'a> {
    from: &'a [u8],
    stride: usize,
    to: &'a mut [Lane<[u8; 4]>],
}

impl Kernel for Words<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (tiles, rest) = self.to.as_chunks_mut::<TILE>();
        let done = tiles.len() * TILE_BYTES;
        for (tile, at) in tiles.iter_mut().zip((0..).step_by(TILE_BYTES)) {
            simd.transpose(&self.from[at..], self.stride, tile);
        }
        for (to, at) in rest.iter_mut().zip((done..).step_by(4)) {
            for (row, to) in to.iter_mut().enumerate() {
                to.copy_from_slice(&self.from[row * self.stride + at..][..4]);
            }
        }
    }
}

/// Blocks of [`Source::Q8_0`] as they are.
struct Eights<'a> {
    from: &'a [u8],
    stride: usize,
    to: &'a mut [EightBitBlock],
}

impl Kernel for Eights<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for block in 0..self.stride / Q8_0_BYTES {
            let (from, to) = (&self.from[block * Q8_0_BYTES..], &mut self.to[block / 2]);
            let (scales, quants) = (&mut to.scales[block % 2], &mut to.quants[block % 2]);
            for (row, scale) in scales.iter_mut().enumerate() {
                let at = row * self.stride;
                *scale = u16::from_le_bytes([from[at], from[at + 1]]);
            }
            simd.transpose(&from[2..], self.stride, quants);
            quants.as_flattened_mut().as_flattened_mut().iter_mut().for_each(|quant| *quant ^= 0x80);
        }
    }
}

/// What is done with the numbers of sixteen rows. A trait and no closure: only what is inlined uses the instructions.
trait Take {
    /// Takes the columns from `first` on. Must be `#[inline(always)]`.
    fn take<S: Simd>(&mut self, simd: S, first: usize, lanes: &[Lane<f32>]);
}

/// Keeps numbers as they are.
struct Copy<'a>(&'a mut [Lane<f32>]);

impl Take for Copy<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, _: S, first: usize, lanes: &[Lane<f32>]) {
        self.0[first..][..lanes.len()].copy_from_slice(lanes);
    }
}

/// Quantizes to eight bits.
struct QuantizeEights<'a>(&'a mut [EightBitBlock]);

impl Take for QuantizeEights<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, _: S, first: usize, lanes: &[Lane<f32>]) {
        for (group, numbers) in (first / SMALL..).zip(lanes.as_chunks::<SMALL>().0) {
            let to = &mut self.0[group / 2];
            quantize(numbers, &mut to.scales[group % 2], &mut to.quants[group % 2]);
        }
    }
}

/// Quantizes to four bits.
struct QuantizeFours<'a>(&'a mut [FourBitBlock]);

impl Take for QuantizeFours<'_> {
    #[inline(always)]
    fn take<S: Simd>(&mut self, simd: S, first: usize, lanes: &[Lane<f32>]) {
        for (block, numbers) in (first / q4k::COLUMNS..).zip(lanes.as_chunks().0) {
            q4k::Quantize { numbers, to: &mut self.0[block] }.run(simd);
        }
    }
}

/// As [`EightBitBlock::quantize`] does for one row.
#[inline(always)]
fn quantize(numbers: &[Lane<f32>; SMALL], scales: &mut Lane<u16>, quants: &mut [Lane<[u8; 4]>; SMALL / 4]) {
    let mut largest = [0.0f32; LANES];
    for column in numbers {
        for (largest, number) in largest.iter_mut().zip(column) {
            let size = number.abs();
            // Neither infinite nor no number.
            let finite = if size > *largest { size } else { *largest };
            *largest = if size < f32::INFINITY { finite } else { f32::INFINITY };
        }
    }
    let inverse = largest.map(|largest| if largest > 0.0 { 127.0 / largest } else { 0.0 });
    *scales = largest.map(|largest| f16::from_f32(largest / 127.0).to_bits());
    for (to, four) in quants.iter_mut().zip(numbers.as_chunks::<4>().0) {
        let mut words = [0u32; LANES];
        for (at, column) in four.iter().enumerate() {
            for ((word, number), inverse) in words.iter_mut().zip(column).zip(&inverse) {
                // Infinite where the largest number is that of no normal scale; what is no number becomes 0.
                let quant = (round(number * inverse) as i32).clamp(-128, 127);
                *word |= ((quant as u32 & 0xFF) ^ 0x80) << (8 * at);
            }
        }
        *to = words.map(u32::to_le_bytes);
    }
}

/// Blocks of [`Source::Q4K`] as they are.
struct Fours<'a> {
    from: &'a [u8],
    stride: usize,
    to: &'a mut [FourBitBlock],
}

impl Kernel for Fours<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        const HEAD: usize = 16;
        let length = HEAD + q4k::COLUMNS / 2;
        for (block, to) in self.to.iter_mut().enumerate() {
            let from = &self.from[block * length..];
            for lane in 0..LANES {
                to.copy_scales(lane, &from[lane * self.stride..][..length]);
            }
            for (group, quants) in to.quants.iter_mut().enumerate() {
                simd.transpose(&from[HEAD + group * TILE_BYTES..], self.stride, quants);
            }
        }
    }
}

/// Reads 256 columns of all rows at a time, or what is left of them, as f32.
struct Columns<'a, T> {
    panel: Panel<'a>,
    take: T,
}

impl<T: Take> Kernel for Columns<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Panel { source, bytes: from, width, columns } = self.panel;
        let mut rows = [[0.0f32; LARGE]; PANEL];
        let mut lanes = [[0.0f32; LANES]; LARGE];
        for first in (0..columns).step_by(LARGE) {
            let count = LARGE.min(columns - first);
            if source == Source::Bf16 && count.is_multiple_of(2 * TILE) {
                halves(simd, &from[2 * first..], width, &mut lanes[..count]);
            } else {
                let (Some(start), Some(length)) = (source.bytes(first), source.bytes(count)) else { return };
                for (row, to) in rows.iter_mut().enumerate() {
                    source.read(&from[row * width + start..][..length], &mut to[..count]);
                }
                let tiles = words(&mut lanes[..count]).as_chunks_mut::<TILE>().0;
                for (tile, at) in tiles.iter_mut().zip((0..).step_by(TILE_BYTES)) {
                    simd.transpose(&bytes(rows.as_flattened())[at..], size_of::<[f32; LARGE]>(), tile);
                }
            }
            self.take.take(simd, first, &lanes[..count]);
        }
    }
}

/// Numbers of bf16 from sixteen rows, which begin `stride` bytes apart, as f32. They are transposed as pairs.
#[inline(always)]
fn halves<S: Simd>(simd: S, from: &[u8], stride: usize, to: &mut [Lane<f32>]) {
    let mut pairs = [[[0u16; 2]; LANES]; TILE];
    for (to, at) in to.as_chunks_mut::<{ 2 * TILE }>().0.iter_mut().zip((0..).step_by(TILE_BYTES)) {
        for tile in words(&mut pairs).as_chunks_mut().0 {
            simd.transpose(&from[at..], stride, tile);
        }
        for (columns, pairs) in to.as_chunks_mut::<2>().0.iter_mut().zip(&pairs) {
            for (column, numbers) in columns.iter_mut().zip(simd.load_pairs(pairs)) {
                simd.store(numbers, column);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Matrix};
    use super::*;
    use crate::cpu::tests::numbers;

    /// Anything that a file may hold: also infinite numbers, and what is none.
    fn file(source: Source, rows: usize, columns: usize, seed: u64) -> Vec<u8> {
        let numbers = numbers(seed, rows * columns);
        let numbers = numbers.iter().enumerate().map(|(index, number)| match index % 997 {
            0 if seed % 2 == 1 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][index / 997 % 3],
            index if index % 7 == 0 => 0.0,
            index => number * [1e-39, 1e-20, 1e-3, 1.0, 300.0][index / 64 % 5],
        });
        match source {
            Source::F32 => numbers.flat_map(f32::to_le_bytes).collect(),
            Source::F16 => numbers.flat_map(|number| f16::from_f32(number).to_le_bytes()).collect(),
            Source::Bf16 => numbers.flat_map(|number| half::bf16::from_f32(number).to_le_bytes()).collect(),
            // All bytes mean something in a quantized file.
            _ => {
                let mixed = (0u64..).map(|index| (seed ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40);
                mixed.map(|mixed| mixed as u8).take(source.bytes(rows * columns).unwrap()).collect()
            }
        }
    }

    #[test]
    fn whole_panels_have_the_bits_of_rows_that_are_packed_one_by_one_on_any_number_of_threads() {
        let sources = [
            Source::F32,
            Source::F16,
            Source::Bf16,
            Source::Q4_0,
            Source::Q4_1,
            Source::Q5_0,
            Source::Q5_1,
            Source::Q8_0,
            Source::Q2K,
            Source::Q3K,
            Source::Q4K,
            Source::Q5K,
            Source::Q6K,
            Source::Iq4Nl,
            Source::Iq4Xs,
        ];
        let pools =
            [1, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
        for source in sources {
            for format in [Format::F32, Format::Bf16, Format::Q8_0, Format::Q4K] {
                // Whole blocks of everything; of 32 and of 8 columns only; and what is left over.
                for (rows, columns) in [(67, 768), (35, 288), (33, 104), (16, 77), (50, 2)] {
                    let Some(width) = source.bytes(columns) else { continue };
                    let file = file(source, rows, columns, (rows + columns) as u64);
                    for level in Level::available() {
                        let mut by_rows = Matrix::zeros(format, rows, columns);
                        for (row, bytes) in file.chunks(width).enumerate() {
                            by_rows.fill(level, row, source, bytes);
                        }
                        for pool in &pools {
                            let mut whole = Matrix::zeros(format, rows, columns);
                            pool.install(|| whole.fill(level, 0, source, &file));
                            let case = (source, format, rows, columns, level);
                            assert!(whole.memory() == by_rows.memory(), "{case:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_tile_is_a_transposition_on_every_instruction_set() {
        struct Tile<'a>(&'a [u8], usize, &'a mut [Lane<[u8; 4]>; TILE]);
        impl Kernel for Tile<'_> {
            #[inline(always)]
            fn run<S: Simd>(self, simd: S) {
                simd.transpose(self.0, self.1, self.2);
            }
        }
        let stride = 37;
        let from: Vec<u8> = (0..stride * 15 + TILE_BYTES).map(|index| (index * 89 % 251) as u8).collect();
        for level in Level::available() {
            let mut tile = [[[0; 4]; LANES]; TILE];
            level.run(Tile(&from, stride, &mut tile));
            for (column, lanes) in tile.iter().enumerate() {
                for (row, word) in lanes.iter().enumerate() {
                    assert_eq!(word, &from[row * stride + 4 * column..][..4], "{level:?} {row} {column}");
                }
            }
        }
    }
}
