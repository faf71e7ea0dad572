//! Matrices of weights on the device, and launches of what reads them: products (`skinny.cu`, `wide.cu`,
//! `gemm.cu`) and embedding (`embed.cu`).

use std::ops::Range;

use super::launch::{Arg, DeviceError, Shape, count, require};
use super::memory::{Buffer, Device, Element, View, ViewMut};
use super::narrow::{ByWeights, Narrow};
use super::quants::{BLOCK, GROUP, q4k_words, q8_0_words};

/// For how many vectors there are skinny kernels.
const VECTORS: [usize; 4] = [8, 16, 32, 64];
/// For how many there are wide ones too: the last of these.
const WIDE: Range<usize> = 2..4;
/// The most vectors of one launch of either.
const MOST_VECTORS: usize = 64;
/// Rows of the matrix that a block of a wide kernel works on.
const WIDE_ROWS: u32 = 128;
/// Threads of a block of a product.
const THREADS: u32 = 256;
/// Blocks that are enough for the largest device.
const MANY_BLOCKS: u64 = 256;

/// How large a part of a result a block makes, where there are several vectors. The result does not depend on it.
#[derive(Clone, Copy, Debug)]
pub enum Blocks {
    /// Tiles of 64 rows and vectors of prompts, few rows of others: more blocks.
    Small,
    /// Tiles of 128 rows and vectors of prompts, 128 rows of others: fewer reads.
    Large,
}

impl Blocks {
    /// The largest size with which there are enough blocks to occupy the whole device.
    fn of(large: [u32; 3]) -> Self {
        let blocks: u64 = large.iter().map(|&blocks| u64::from(blocks)).product();
        if blocks < MANY_BLOCKS { Self::Small } else { Self::Large }
    }
}

/// A matrix of weights, row after row, that is multiplied with vectors of `T`.
pub struct Matrix<D: Device, T> {
    weights: Weights<D, T>,
    rows: usize,
    columns: usize,
    /// Always these, if any.
    blocks: Option<Blocks>,
}

/// What makes a product.
struct Kernels {
    gemm: ByWeights<[&'static str; 2]>,
    skinny: ByWeights<[&'static str; 4]>,
    /// How many results a block of each of these makes.
    results: [u32; 4],
    wide: ByWeights<[&'static str; 2]>,
}

enum Weights<D: Device, T> {
    Plain(Buffer<D, T>),
    Q8_0 { quants: Buffer<D, u32>, scales: Buffer<D, u32> },
    Q4K { quants: Buffer<D, u32>, heads: Buffer<D, u32> },
}

impl<D: Device, T: Narrow> Matrix<D, T> {
    /// A matrix of numbers as they are multiplied.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn plain(weights: Buffer<D, T>, columns: usize) -> Result<Self, DeviceError> {
        let [kernel, ..] = T::EMBED;
        require(columns > 0 && columns.is_multiple_of(8), kernel, "rows are not whole groups")?;
        require(weights.len().is_multiple_of(columns), kernel, "the matrix is not whole rows")?;
        Ok(Self { rows: weights.len() / columns, weights: Weights::Plain(weights), columns, blocks: None })
    }

    /// A matrix of eight bits each and a scale for every 32 of a row, as [`super::arrange_q8_0`] makes it.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn q8_0(quants: Buffer<D, u32>, scales: Buffer<D, u32>, columns: usize) -> Result<Self, DeviceError> {
        let [_, kernel, _] = T::EMBED;
        require(columns > 0 && columns.is_multiple_of(GROUP), kernel, "rows are not whole groups")?;
        let rows = whole_rows(kernel, [quants.len(), scales.len()], q8_0_words(columns))?;
        Ok(Self { weights: Weights::Q8_0 { quants, scales }, rows, columns, blocks: None })
    }

    /// A matrix of four bits each, and a scale and a minimum for every 32 of a row, as [`super::arrange_q4k`] makes it.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn q4k(quants: Buffer<D, u32>, heads: Buffer<D, u32>, columns: usize) -> Result<Self, DeviceError> {
        let [_, _, kernel] = T::EMBED;
        require(columns > 0 && columns.is_multiple_of(BLOCK), kernel, "rows are not whole blocks")?;
        let rows = whole_rows(kernel, [quants.len(), heads.len()], q4k_words(columns))?;
        Ok(Self { weights: Weights::Q4K { quants, heads }, rows, columns, blocks: None })
    }

    /// The same matrix, of which products are made by blocks of this size only. No result depends on that.
    pub fn in_blocks(self, blocks: Blocks) -> Self {
        Self { blocks: Some(blocks), ..self }
    }

    /// How many rows it has: as many numbers has a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The type that the weights have in memory, where `plain` is what `T` is called.
    pub fn weights_type(&self, plain: &'static str) -> &'static str {
        self.weights.of([plain, "q8_0", "q4k"])
    }

    /// How many columns it has: as many numbers has what it is multiplied with.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Writes the product with each row of `x` into a row of `out`. The first `read` rows are of prompts. These go through
    /// tiles, however few they are, where sums are added up in another order and quantized weights rounded to `T`. The others
    /// do not: which way a token is computed must not depend on how a text is cut into steps. Nor does a row's result depend
    /// on what the others are.
    ///
    /// # Errors
    /// The sizes do not fit, or a launch failed.
    pub fn multiply(
        &self,
        device: &D,
        read: usize,
        x: View<'_, T>,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let (gemm, skinny, wide) = (T::GEMM, T::SKINNY, T::WIDE);
        let kernels = Kernels { gemm, skinny, results: [16, 16, 32, 32], wide };
        self.product(device, kernels, self.rows, read, x, out)
    }

    /// As [`Matrix::multiply`], of a matrix of gates and then as many ups: the results are gelu(gate) · up.
    ///
    /// # Errors
    /// As [`Matrix::multiply`].
    pub fn multiply_geglu(
        &self,
        device: &D,
        read: usize,
        x: View<'_, T>,
        out: &mut ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        let (gemm, skinny, wide) = (T::GEMM_GEGLU, T::SKINNY_GEGLU, T::WIDE_GEGLU);
        let kernels = Kernels { gemm, skinny, results: [16; 4], wide };
        let [kernel, _] = self.weights.of(kernels.gemm);
        require(self.rows.is_multiple_of(2), kernel, "there are not as many gates as ups")?;
        self.product(device, kernels, self.rows / 2, read, x, out)
    }

    fn product<Out: Element>(
        &self,
        device: &D,
        kernels: Kernels,
        results: usize,
        read: usize,
        x: View<'_, T>,
        out: &mut ViewMut<'_, Out>,
    ) -> Result<(), DeviceError> {
        let (gemm, skinny) = (self.weights.of(kernels.gemm), self.weights.of(kernels.skinny));
        let vectors = x.len() / self.columns;
        require(x.len() == vectors * self.columns, skinny[0], "the vectors are not whole")?;
        require(out.len() == vectors * results, skinny[0], "the result is of another size")?;
        require(read <= vectors, skinny[0], "more prompt vectors than vectors")?;
        let mut launch = |kernel, range: Range<usize>, grid: [u32; 3]| {
            if grid.contains(&0) {
                return Ok(());
            }
            let [numbers, scales] = self.weights.args();
            let to = out.again().part(range.start * results..range.end * results)?;
            let args = [
                numbers,
                scales,
                x.part(range.start * self.columns..range.end * self.columns)?.arg(),
                to.arg(),
                count(kernel, results)?.into(),
                count(kernel, self.columns)?.into(),
                count(kernel, range.len())?.into(),
            ];
            // SAFETY: weights, vectors and results are of these sizes, as was checked.
            unsafe { device.launch(kernel, Shape { grid, threads: THREADS, shared_bytes: 0 }, &args) }
        };
        // Of the matrix, whatever becomes of them.
        let rows = count(gemm[0], self.rows)?;
        let sides = [count(gemm[0], read)?, rows, 1];
        let [small, large] = [64, 128].map(|side| sides.map(|rows| rows.div_ceil(side)));
        match self.blocks.unwrap_or_else(|| Blocks::of(large)) {
            Blocks::Small => launch(gemm[0], 0..read, small)?,
            Blocks::Large => launch(gemm[1], 0..read, large)?,
        }
        let wide = self.weights.of(kernels.wide);
        for first in (read..vectors).step_by(MOST_VECTORS) {
            let last = vectors.min(first + MOST_VECTORS);
            let Some(width) = VECTORS.iter().position(|most| last - first <= *most) else { continue };
            let large = [rows.div_ceil(WIDE_ROWS), 1, 1];
            match self.blocks.unwrap_or_else(|| Blocks::of(large)) {
                Blocks::Large if WIDE.contains(&width) => {
                    launch(wide[width - WIDE.start], first..last, large)?;
                }
                _ => {
                    let blocks = count(skinny[width], results)?.div_ceil(kernels.results[width]);
                    launch(skinny[width], first..last, [blocks, 1, 1])?;
                }
            }
        }
        Ok(())
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
        let kernel = self.weights.of(T::EMBED);
        require(ids.len() == positions.len(), kernel, "ids and positions differ in number")?;
        require(out.len() == ids.len() * self.columns, kernel, "the result is of another size")?;
        let (batch, columns) = (count(kernel, ids.len())?, count(kernel, self.columns)?);
        if batch == 0 {
            return Ok(());
        }
        let [numbers, scales] = self.weights.args();
        let rows = count(kernel, self.rows)?.into();
        let args =
            [numbers, scales, ids.arg(), positions.arg(), out.arg(), rows, columns.into(), factor.into()];
        // Each takes eight columns at least.
        let threads = columns.div_ceil(8).next_multiple_of(32).min(1024);
        // SAFETY: table and result are of these sizes, as was checked; ids the kernel checks itself.
        unsafe { device.launch(kernel, Shape { grid: [batch, 1, 1], threads, shared_bytes: 0 }, &args) }
    }
}

impl<D: Device, T: Narrow> Weights<D, T> {
    /// The kernels for these.
    fn of<K>(&self, [plain, q8_0, q4k]: [K; 3]) -> K {
        match self {
            Self::Plain(_) => plain,
            Self::Q8_0 { .. } => q8_0,
            Self::Q4K { .. } => q4k,
        }
    }

    fn args(&self) -> [Arg; 2] {
        match self {
            Self::Plain(weights) => [weights.view().arg(), Arg::address(0)],
            Self::Q8_0 { quants, scales: other } | Self::Q4K { quants, heads: other } => {
                [quants.view().arg(), other.view().arg()]
            }
        }
    }
}

/// The number of rows, if a row takes `each` of the words.
fn whole_rows(kernel: &'static str, words: [usize; 2], each: [usize; 2]) -> Result<usize, DeviceError> {
    let [rows, others] = [words[0] / each[0], words[1] / each[1]];
    let whole = rows == others && words == [rows * each[0], rows * each[1]];
    require(whole, kernel, "quants and scales are not of the same whole rows").map(|()| rows)
}
