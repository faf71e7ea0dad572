//! A matrix on its way to a device, some rows at a time, in the type that it is kept in there.

use std::borrow::Cow;

use half::{bf16, f16};

use super::super::parameters::numbers;
use super::super::{ModelError, Quantize};
use codeseal_kernels::cpu::{Source, quantise_q4k};
use codeseal_kernels::cuda::{
    BLOCK, Buffer, Device, DeviceError, Matrix, Narrow, arrange_q4k, arrange_q8_0, draw, draw_words,
    q4k_words, q8_0_words, quantise, repeat_words,
};

/// The largest weight by chance.
const LARGEST: f32 = 0.04;

/// In what a device keeps a matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// As tensor cores multiply them.
    Plain,
    Q8_0,
    /// Where rows are no multiple of 256 long, [`Kept::Q8_0`] takes its place.
    Q4K,
}

/// The type that a device multiplies.
pub(super) trait Multiplied: Narrow {
    /// How files have it.
    const SOURCE: Source;

    fn from_f32(number: f32) -> Self;
}

impl Multiplied for bf16 {
    const SOURCE: Source = Source::Bf16;

    fn from_f32(number: f32) -> Self {
        Self::from_f32(number)
    }
}

impl Multiplied for f16 {
    const SOURCE: Source = Source::F16;

    fn from_f32(number: f32) -> Self {
        Self::from_f32(number)
    }
}

/// A matrix that is being filled.
enum Filling<D: Device, T> {
    Plain(Buffer<D, T>),
    Q8_0 { quants: Buffer<D, u32>, scales: Buffer<D, u32> },
    Q4K { quants: Buffer<D, u32>, heads: Buffer<D, u32> },
}

pub(super) struct FillingMatrix<D: Device, T> {
    numbers: Filling<D, T>,
    columns: usize,
}

/// In what a matrix is kept that becomes this.
pub(super) fn quantised(quantize: Quantize) -> Kept {
    match quantize {
        Quantize::None => Kept::Plain,
        Quantize::Q8_0 => Kept::Q8_0,
        Quantize::Q4K => Kept::Q4K,
    }
}

/// In what a matrix is kept whose pieces are written in `sources`. Quantized pieces of types that the device has no
/// kernels for, or of several, become q8_0, and floats the type that the device multiplies.
pub(super) fn as_written(sources: impl Iterator<Item = Source>) -> Kept {
    let sources: Vec<_> = sources.collect();
    if sources.iter().all(|source| *source == Source::Q4K) {
        Kept::Q4K
    } else if sources.iter().all(|source| source.is_quantized()) {
        Kept::Q8_0
    } else {
        Kept::Plain
    }
}

impl<D: Device, T: Multiplied> FillingMatrix<D, T> {
    pub(super) fn new(device: &D, kept: Kept, rows: usize, columns: usize) -> Result<Self, DeviceError> {
        let room = |words: usize| Buffer::new(device, rows * words);
        let numbers = match kept {
            Kept::Plain => Filling::Plain(Buffer::new(device, rows * columns)?),
            Kept::Q4K if columns.is_multiple_of(BLOCK) => {
                let [quants, heads] = q4k_words(columns);
                Filling::Q4K { quants: room(quants)?, heads: room(heads)? }
            }
            Kept::Q8_0 | Kept::Q4K => {
                let [quants, scales] = q8_0_words(columns);
                Filling::Q8_0 { quants: room(quants)?, scales: room(scales)? }
            }
        };
        Ok(Self { numbers, columns })
    }

    /// Overwrites whole rows, from `first` on, with what `bytes` hold.
    pub(super) fn fill_rows(
        &mut self,
        device: &D,
        first: usize,
        source: Source,
        bytes: &[u8],
    ) -> Result<(), ModelError> {
        let columns = self.columns;
        match &mut self.numbers {
            Filling::Plain(to) if source == T::SOURCE => to.write_bytes(device, first * columns, bytes)?,
            Filling::Plain(to) => {
                let short: Vec<T> = numbers(source, bytes).into_iter().map(T::from_f32).collect();
                to.write(device, first * columns, &short)?;
            }
            Filling::Q8_0 { quants, scales } => {
                let blocks =
                    source.as_q8_0(bytes).unwrap_or_else(|| Cow::Owned(quantise(&numbers(source, bytes))));
                let [each, each_scales] = q8_0_words(columns);
                let [all, all_scales] = arrange_q8_0(columns, &blocks);
                quants.write_bytes(device, first * each, &all)?;
                scales.write_bytes(device, first * each_scales, &all_scales)?;
            }
            Filling::Q4K { quants, heads } => {
                let blocks = match source {
                    Source::Q4K => Cow::Borrowed(bytes),
                    _ => Cow::Owned(quantise_q4k(&numbers(source, bytes))),
                };
                let [each, each_heads] = q4k_words(columns);
                let [all, all_heads] = arrange_q4k(&blocks);
                quants.write_bytes(device, first * each, &all)?;
                heads.write_bytes(device, first * each_heads, &all_heads)?;
            }
        }
        Ok(())
    }

    /// Fills it by chance, with numbers about as large as those of a trained model.
    pub(super) fn draw(&mut self, device: &D, seed: u32) -> Result<(), DeviceError> {
        let f16s = |low: f32, high: f32| {
            u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
        };
        match &mut self.numbers {
            Filling::Plain(numbers) => draw(device, LARGEST, seed, &mut numbers.view_mut()),
            Filling::Q8_0 { quants, scales } => {
                draw_words(device, seed, &mut quants.view_mut())?;
                let scale = LARGEST / 127.0;
                repeat_words(device, [f16s(scale, scale); 4], &mut scales.view_mut())
            }
            Filling::Q4K { quants, heads } => {
                draw_words(device, seed, &mut quants.view_mut())?;
                // All scales and minima are 63 times these.
                let units = f16s(2.0 * LARGEST / 15.0 / 63.0, LARGEST / 63.0);
                repeat_words(device, [units, u32::MAX, u32::MAX, u32::MAX], &mut heads.view_mut())
            }
        }
    }

    pub(super) fn filled(self) -> Result<Matrix<D, T>, DeviceError> {
        match self.numbers {
            Filling::Plain(numbers) => Matrix::plain(numbers, self.columns),
            Filling::Q8_0 { quants, scales } => Matrix::q8_0(quants, scales, self.columns),
            Filling::Q4K { quants, heads } => Matrix::q4k(quants, heads, self.columns),
        }
    }

    /// How many bytes the weights take.
    pub(super) fn bytes(&self) -> usize {
        match &self.numbers {
            Filling::Plain(numbers) => 2 * numbers.len(),
            Filling::Q8_0 { quants, scales: other } | Filling::Q4K { quants, heads: other } => {
                4 * (quants.len() + other.len())
            }
        }
    }
}
