//! Matrices of weights on the device, and launches of what reads them: products (`gemv.cu`, `gemm.cu`) and embedding (`embed.cu`).
//!
//! Must not touch: files.

use half::{bf16, f16};

use super::kv::KvElement;
use super::launch::{Arg, DeviceError, Shape, count, require};
use super::memory::{Buffer, Device, Element, View, ViewMut};

/// Columns that share a scale when weights are quantised.
const GROUP: usize = 32;
/// Warps of a block of a product.
const WARPS: u32 = 4;
/// For how many vectors products are made, and how many rows a warp then works on.
const VECTORS: [(usize, u32); 4] = [(1, 2), (2, 2), (4, 4), (8, 4)];
/// The most vectors of one launch.
const MOST_VECTORS: usize = 8;

/// Rows of the matrix, and vectors, that a block works on where there are many.
const TILE: u32 = 64;

/// A matrix of weights, row after row.
pub struct Matrix<D: Device> {
    weights: Weights<D>,
    rows: usize,
    columns: usize,
}

enum Weights<D: Device> {
    Bf16(Buffer<D, bf16>),
    F16(Buffer<D, f16>),
    Q8_0 { quants: Buffer<D, i8>, scales: Buffer<D, f16> },
}

impl<D: Device> Matrix<D> {
    /// A matrix of bf16.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn bf16(weights: Buffer<D, bf16>, columns: usize) -> Result<Self, DeviceError> {
        Self::new(weights.len(), columns, 8, Weights::Bf16(weights))
    }

    /// A matrix of f16.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn f16(weights: Buffer<D, f16>, columns: usize) -> Result<Self, DeviceError> {
        Self::new(weights.len(), columns, 8, Weights::F16(weights))
    }

    /// A matrix of eight bits each, and a scale for every 32 of a row.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn q8_0(quants: Buffer<D, i8>, scales: Buffer<D, f16>, columns: usize) -> Result<Self, DeviceError> {
        require(scales.len() * GROUP == quants.len(), "gemv_q8_0_1", "there is not a scale for every 32")?;
        Self::new(quants.len(), columns, GROUP, Weights::Q8_0 { quants, scales })
    }

    fn new(numbers: usize, columns: usize, group: usize, weights: Weights<D>) -> Result<Self, DeviceError> {
        let [kernel, ..] = weights.products();
        require(columns > 0 && columns.is_multiple_of(group), kernel, "rows are not whole groups")?;
        require(numbers.is_multiple_of(columns), kernel, "the matrix is not whole rows")?;
        Ok(Self { weights, rows: numbers / columns, columns })
    }

    /// How many rows it has: as many numbers has a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns it has: as many numbers has what it is multiplied with.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Writes the product with each row of `x` into a row of `out`.
    ///
    /// # Errors
    /// The sizes do not fit, or a launch failed.
    pub fn multiply(
        &self,
        device: &D,
        x: View<'_, f32>,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let [kernel, ..] = self.weights.products();
        let vectors = x.len() / self.columns;
        require(x.len() == vectors * self.columns, kernel, "the vectors are not whole")?;
        require(out.len() == vectors * self.rows, kernel, "the result is of another size")?;
        for first in (0..vectors).step_by(MOST_VECTORS) {
            let last = vectors.min(first + MOST_VECTORS);
            let x = x.part(first * self.columns..last * self.columns)?;
            let mut out = out.again().part(first * self.rows..last * self.rows)?;
            self.multiply_few(device, last - first, x, &mut out)?;
        }
        Ok(())
    }

    /// As [`Matrix::multiply`], for many rows at once, on tensor cores: each row is rounded to the weights' type, or to
    /// `T` where weights are quantised. A row's result does not depend on the others.
    ///
    /// # Errors
    /// The sizes do not fit, or the launch failed.
    pub fn multiply_many<T: KvElement>(
        &self,
        device: &D,
        x: View<'_, f32>,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let kernel = match &self.weights {
            Weights::Bf16(_) => "gemm_bf16",
            Weights::F16(_) => "gemm_f16",
            Weights::Q8_0 { .. } => T::GEMM_Q8_0,
        };
        let vectors = x.len() / self.columns;
        require(x.len() == vectors * self.columns, kernel, "the vectors are not whole")?;
        require(out.len() == vectors * self.rows, kernel, "the result is of another size")?;
        let (rows, vectors) = (count(kernel, self.rows)?, count(kernel, vectors)?);
        if rows == 0 || vectors == 0 {
            return Ok(());
        }
        let mut args = self.weights.args();
        args.extend_from_slice(&[x.arg(), out.arg(), rows.into()]);
        args.extend_from_slice(&[count(kernel, self.columns)?.into(), vectors.into()]);
        let grid = [rows.div_ceil(TILE), vectors.div_ceil(TILE), 1];
        // SAFETY: weights, vectors and results are of these sizes, as was checked.
        #[allow(unsafe_code)]
        unsafe {
            device.launch(kernel, Shape { grid, threads: 128, shared_bytes: 0 }, &args)
        }
    }

    fn multiply_few(
        &self,
        device: &D,
        vectors: usize,
        x: View<'_, f32>,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let kernels = VECTORS.into_iter().zip(self.weights.products());
        let Some(((_, together), kernel)) = kernels.into_iter().find(|((most, _), _)| vectors <= *most)
        else {
            return Ok(());
        };
        let rows = count(kernel, self.rows)?;
        if rows == 0 {
            return Ok(());
        }
        let mut args = self.weights.args();
        args.extend_from_slice(&[x.arg(), out.arg(), rows.into()]);
        args.extend_from_slice(&[count(kernel, self.columns)?.into(), count(kernel, vectors)?.into()]);
        let shape =
            Shape { grid: [rows.div_ceil(WARPS * together), 1, 1], threads: WARPS * 32, shared_bytes: 0 };
        // SAFETY: weights, vectors and results are of these sizes, as was checked.
        #[allow(unsafe_code)]
        unsafe {
            device.launch(kernel, shape, &args)
        }
    }

    /// Writes the row of each of `ids`, times `factor`, into a row of `out`; zeros where the position is -1.
    ///
    /// # Errors
    /// The sizes do not fit, or the launch failed.
    pub fn embed(
        &self,
        device: &D,
        ids: View<'_, u32>,
        positions: View<'_, i32>,
        factor: f32,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let kernel = match &self.weights {
            Weights::Bf16(_) => "embed_bf16",
            Weights::F16(_) => "embed_f16",
            Weights::Q8_0 { .. } => "embed_q8_0",
        };
        require(ids.len() == positions.len(), kernel, "ids and positions differ in number")?;
        require(out.len() == ids.len() * self.columns, kernel, "the result is of another size")?;
        let (batch, columns) = (count(kernel, ids.len())?, count(kernel, self.columns)?);
        if batch == 0 {
            return Ok(());
        }
        let mut args = self.weights.args();
        args.extend_from_slice(&[ids.arg(), positions.arg(), out.arg(), count(kernel, self.rows)?.into()]);
        args.extend_from_slice(&[columns.into(), factor.into()]);
        let threads = columns.next_multiple_of(32).min(1024);
        // SAFETY: table and result are of these sizes, as was checked; ids the kernel checks itself.
        #[allow(unsafe_code)]
        unsafe {
            device.launch(kernel, Shape { grid: [batch, 1, 1], threads, shared_bytes: 0 }, &args)
        }
    }
}

impl<D: Device> Weights<D> {
    fn products(&self) -> [&'static str; 4] {
        match self {
            Self::Bf16(_) => ["gemv_bf16_1", "gemv_bf16_2", "gemv_bf16_4", "gemv_bf16_8"],
            Self::F16(_) => ["gemv_f16_1", "gemv_f16_2", "gemv_f16_4", "gemv_f16_8"],
            Self::Q8_0 { .. } => ["gemv_q8_0_1", "gemv_q8_0_2", "gemv_q8_0_4", "gemv_q8_0_8"],
        }
    }

    fn args(&self) -> Vec<Arg> {
        match self {
            Self::Bf16(weights) => vec![weights.view().arg()],
            Self::F16(weights) => vec![weights.view().arg()],
            Self::Q8_0 { quants, scales } => vec![quants.view().arg(), scales.view().arg()],
        }
    }
}

/// Weights as q8_0: the nearest of 255 equidistant numbers for each of a group, and the group's scale. What is not
/// finite makes a scale that is not: it must not turn into a plausible weight.
pub fn quantise(weights: &[f32]) -> (Vec<i8>, Vec<f16>) {
    let mut quants = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(weights.len() / GROUP);
    for group in weights.chunks(GROUP) {
        let largest = group.iter().fold(0.0f32, |largest, weight| {
            if weight.is_finite() { largest.max(weight.abs()) } else { f32::INFINITY }
        });
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        scales.push(f16::from_f32(largest / 127.0));
        quants.extend(group.iter().map(|weight| (weight * inverse).round() as i8));
    }
    (quants, scales)
}

const _: () = assert!(f16::BYTES == 2 && bf16::BYTES == 2);
