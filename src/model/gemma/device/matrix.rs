//! A matrix on its way to a device: some rows at a time are converted or quantized, packed as the kernels read them, and
//! copied.

use std::borrow::Cow;

use half::{bf16, f16};

use codeseal_kernels::cpu::{Format, Source, quantize_q4k};
use codeseal_kernels::cuda::{
    BLOCK, Buffer, Device, DeviceError, Matrix, Narrow, arrange_q4k, arrange_q8_0, draw, draw_words,
    q4k_words, q8_0_words, quantize_q8_0, repeat_words,
};

use super::super::super::error::ModelError;

/// The largest random weight, about that of a trained model.
const LARGEST: f32 = 0.04;

/// The type that a device multiplies.
pub(super) trait Multiplied: Narrow {
    /// The same type in files.
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

enum Packed<D: Device, T> {
    Plain(Buffer<D, T>),
    Q8_0 { quants: Buffer<D, u32>, scales: Buffer<D, u32> },
    Q4K { quants: Buffer<D, u32>, heads: Buffer<D, u32> },
}

/// A matrix that is being filled.
pub(super) struct MatrixBuilder<D: Device, T> {
    packed: Packed<D, T>,
    columns: usize,
}

impl<D: Device, T: Multiplied> MatrixBuilder<D, T> {
    /// Memory for a matrix of `format`. Floats become the type that the device multiplies; where rows are not multiples of
    /// 256, q8_0 takes the place of q4k.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(super) fn new(device: &D, format: Format, rows: usize, columns: usize) -> Result<Self, DeviceError> {
        let room = |words: usize| Buffer::new(device, rows * words);
        let packed = match format {
            Format::F32 | Format::Bf16 => Packed::Plain(Buffer::new(device, rows * columns)?),
            Format::Q4K if columns.is_multiple_of(BLOCK) => {
                let [quants, heads] = q4k_words(columns);
                Packed::Q4K { quants: room(quants)?, heads: room(heads)? }
            }
            Format::Q8_0 | Format::Q4K => {
                let [quants, scales] = q8_0_words(columns);
                Packed::Q8_0 { quants: room(quants)?, scales: room(scales)? }
            }
        };
        Ok(Self { packed, columns })
    }

    /// Overwrites whole rows, from `first` on, with `bytes` of the type `source`.
    ///
    /// # Errors
    /// There are fewer rows, or the copy failed.
    pub(super) fn fill_rows(
        &mut self,
        device: &D,
        first: usize,
        source: Source,
        bytes: &[u8],
    ) -> Result<(), ModelError> {
        let columns = self.columns;
        match &mut self.packed {
            Packed::Plain(to) if source == T::SOURCE => to.write_bytes(device, first * columns, bytes)?,
            Packed::Plain(to) => {
                let short: Vec<T> = source.to_f32(bytes).into_iter().map(T::from_f32).collect();
                to.write(device, first * columns, &short)?;
            }
            Packed::Q8_0 { quants, scales } => {
                let blocks =
                    source.as_q8_0(bytes).unwrap_or_else(|| Cow::Owned(quantize_q8_0(&source.to_f32(bytes))));
                let [each, each_scales] = q8_0_words(columns);
                let [all, all_scales] = arrange_q8_0(columns, &blocks);
                quants.write_bytes(device, first * each, &all)?;
                scales.write_bytes(device, first * each_scales, &all_scales)?;
            }
            Packed::Q4K { quants, heads } => {
                let blocks = match source {
                    Source::Q4K => Cow::Borrowed(bytes),
                    _ => Cow::Owned(quantize_q4k(&source.to_f32(bytes))),
                };
                let [each, each_heads] = q4k_words(columns);
                let [all, all_heads] = arrange_q4k(&blocks);
                quants.write_bytes(device, first * each, &all)?;
                heads.write_bytes(device, first * each_heads, &all_heads)?;
            }
        }
        Ok(())
    }

    /// Fills it with random numbers about as large as those of a trained model.
    ///
    /// # Errors
    /// A launch failed.
    pub(super) fn fill_random(&mut self, device: &D, seed: u32) -> Result<(), DeviceError> {
        let f16s = |low: f32, high: f32| {
            u32::from(f16::from_f32(low).to_bits()) | u32::from(f16::from_f32(high).to_bits()) << 16
        };
        match &mut self.packed {
            Packed::Plain(numbers) => draw(device, LARGEST, seed, &mut numbers.view_mut()),
            Packed::Q8_0 { quants, scales } => {
                draw_words(device, seed, &mut quants.view_mut())?;
                let scale = LARGEST / 127.0;
                repeat_words(device, [f16s(scale, scale); 4], &mut scales.view_mut())
            }
            Packed::Q4K { quants, heads } => {
                draw_words(device, seed, &mut quants.view_mut())?;
                // All scales and minima are 63 times these.
                let units = f16s(2.0 * LARGEST / 15.0 / 63.0, LARGEST / 63.0);
                repeat_words(device, [units, u32::MAX, u32::MAX, u32::MAX], &mut heads.view_mut())
            }
        }
    }

    /// The matrix, once all rows have been written.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub(super) fn build(self) -> Result<Matrix<D, T>, DeviceError> {
        match self.packed {
            Packed::Plain(numbers) => Matrix::plain(numbers, self.columns),
            Packed::Q8_0 { quants, scales } => Matrix::q8_0(quants, scales, self.columns),
            Packed::Q4K { quants, heads } => Matrix::q4k(quants, heads, self.columns),
        }
    }

    /// The size of the weights, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match &self.packed {
            Packed::Plain(numbers) => 2 * numbers.len(),
            Packed::Q8_0 { quants, scales: other } | Packed::Q4K { quants, heads: other } => {
                4 * (quants.len() + other.len())
            }
        }
    }
}
