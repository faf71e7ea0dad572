//! Weights as they lie in memory: rows of blocks of 32, in the type that they came in, or quantised.
//!
//! Must not touch: files.

use half::{bf16, f16};

use super::simd::{LANES, Lane};

/// How many columns share a scale, and how many are worked on in one step.
pub(super) const BLOCK: usize = 2 * LANES;

/// Thirty-two columns of one row.
pub(super) type Block<T> = [Lane<T>; 2];

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// As they are in an f32 file, and what an f16 file becomes: exact, and no machine multiplies f16 faster.
    F32,
    /// As they are in a bf16 file.
    Bf16,
    /// An i8 each, and an f16 scale for every 32.
    Q8_0,
}

/// How weights are written in a file; little endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    F32,
    F16,
    Bf16,
}

/// A matrix of weights. Rows are padded with zeros to whole blocks.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    pub(super) store: Store,
    rows: usize,
    columns: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Store {
    F32(Vec<Block<f32>>),
    Bf16(Vec<Block<u16>>),
    Q8 { quants: Vec<Block<i8>>, scales: Vec<u16> },
}

impl Source {
    /// How many bytes a number takes.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The numbers that `bytes` are.
    pub(crate) fn read(self, bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
        let halves = move |pair: [u8; 2]| match self {
            Self::F16 => f16::from_le_bytes(pair).to_f32(),
            Self::Bf16 | Self::F32 => bf16::from_le_bytes(pair).to_f32(),
        };
        bytes.chunks_exact(self.bytes()).map(move |number| match *number {
            [a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            [a, b] => halves([a, b]),
            _ => f32::NAN,
        })
    }
}

impl Matrix {
    /// Zeros. Memory is taken when they are overwritten.
    pub(crate) fn zeros(format: Format, rows: usize, columns: usize) -> Self {
        let blocks = rows * columns.div_ceil(BLOCK);
        let store = match format {
            Format::F32 => Store::F32(vec![[[0.0; LANES]; 2]; blocks]),
            Format::Bf16 => Store::Bf16(vec![[[0; LANES]; 2]; blocks]),
            Format::Q8_0 => Store::Q8 { quants: vec![[[0; LANES]; 2]; blocks], scales: vec![0; blocks] },
        };
        Self { store, rows, columns }
    }

    /// Overwrites whole rows, from `first` on, with what `bytes` hold. Bytes that make no whole row are ignored.
    pub(crate) fn fill_rows(&mut self, first: usize, source: Source, bytes: &[u8]) {
        let (blocks, width) = (self.blocks(), self.columns * source.bytes());
        for (row, bytes) in (first..self.rows).zip(bytes.chunks_exact(width)) {
            let at = row * blocks..(row + 1) * blocks;
            match &mut self.store {
                Store::F32(to) => copy(&mut to[at], source.read(bytes)),
                Store::Bf16(to) if source == Source::Bf16 => {
                    let (pairs, _) = bytes.as_chunks::<2>();
                    copy(&mut to[at], pairs.iter().map(|pair| u16::from_le_bytes(*pair)));
                }
                Store::Bf16(to) => {
                    copy(&mut to[at], source.read(bytes).map(|value| bf16::from_f32(value).to_bits()));
                }
                Store::Q8 { quants, scales } => {
                    let mut numbers = source.read(bytes);
                    for (quants, scale) in quants[at.clone()].iter_mut().zip(&mut scales[at]) {
                        let mut block = [0.0; BLOCK];
                        for (to, number) in block.iter_mut().zip(&mut numbers) {
                            *to = number;
                        }
                        quantise(&block, quants, scale);
                    }
                }
            }
        }
    }

    /// Writes the row `row` into `to`, times `factor`.
    pub(crate) fn read_row(&self, row: usize, factor: f32, to: &mut [f32]) {
        let blocks = self.blocks();
        let at = row * blocks..(row + 1) * blocks;
        match &self.store {
            Store::F32(from) => {
                scale_into(to, from[at].as_flattened().as_flattened(), |&value| value * factor)
            }
            Store::Bf16(from) => scale_into(to, from[at].as_flattened().as_flattened(), |&bits| {
                bf16::from_bits(bits).to_f32() * factor
            }),
            Store::Q8 { quants, scales } => {
                for ((to, quants), &scale) in to.chunks_mut(BLOCK).zip(&quants[at.clone()]).zip(&scales[at]) {
                    let scale = f16::from_bits(scale).to_f32();
                    scale_into(to, quants.as_flattened(), |&quant| scale * f32::from(quant) * factor);
                }
            }
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// How many bytes the weights take.
    pub(crate) fn bytes(&self) -> usize {
        match &self.store {
            Store::F32(blocks) => size_of_val(blocks.as_slice()),
            Store::Bf16(blocks) => size_of_val(blocks.as_slice()),
            Store::Q8 { quants, scales } => size_of_val(quants.as_slice()) + size_of_val(scales.as_slice()),
        }
    }

    /// How many blocks a row has.
    pub(super) fn blocks(&self) -> usize {
        self.columns.div_ceil(BLOCK)
    }
}

fn copy<T>(to: &mut [Block<T>], from: impl Iterator<Item = T>) {
    for (to, from) in to.as_flattened_mut().as_flattened_mut().iter_mut().zip(from) {
        *to = from;
    }
}

fn scale_into<T>(to: &mut [f32], from: &[T], read: impl Fn(&T) -> f32) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = read(from);
    }
}

/// The nearest of 255 equidistant numbers for each of `block`. What is not finite makes a scale that is not: it
/// must not turn into a plausible weight.
fn quantise(block: &[f32; BLOCK], quants: &mut Block<i8>, scale: &mut u16) {
    let largest =
        block.iter().fold(
            0.0,
            |largest: f32, value| {
                if value.is_finite() { largest.max(value.abs()) } else { f32::INFINITY }
            },
        );
    *scale = f16::from_f32(largest / 127.0).to_bits();
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    for (quant, value) in quants.as_flattened_mut().iter_mut().zip(block) {
        *quant = (value * inverse).round() as i8;
    }
}
