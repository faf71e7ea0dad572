//! Matrices of weights on the device, and launches of what reads them: products (`skinny.cu`, `gemm.cu`) and embedding
//! (`embed.cu`).
//!
//! Must not touch: files.

use super::launch::{Arg, DeviceError, Shape, count, require};
use super::memory::{Buffer, Device, View, ViewMut};
use super::narrow::Narrow;
use super::quants::{BLOCK, GROUP, q4k_words, q8_0_words};

/// For how many vectors there are products, and how many rows a block then makes.
const SKINNY: [(usize, u32); 4] = [(8, 16), (16, 16), (32, 32), (64, 32)];
/// The most vectors of one launch of those.
const MOST_VECTORS: usize = 64;
/// Threads of a block of a product.
const THREADS: u32 = 256;
/// Blocks that are enough for the largest device.
const MANY_BLOCKS: u32 = 256;

/// How large a part of a result a block makes, where there are many vectors. The result does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 64 vectors and rows: more blocks.
    Small,
    /// 128 vectors and rows: fewer reads.
    Large,
}

impl Tile {
    /// The largest of which there are enough for the whole device.
    fn of(rows: u32, vectors: u32) -> Self {
        let blocks = u64::from(rows.div_ceil(128)) * u64::from(vectors.div_ceil(128));
        if blocks < u64::from(MANY_BLOCKS) { Self::Small } else { Self::Large }
    }

    fn side(self) -> u32 {
        match self {
            Self::Small => 64,
            Self::Large => 128,
        }
    }
}

/// A matrix of weights, row after row, that is multiplied with vectors of `T`.
pub struct Matrix<D: Device, T> {
    weights: Weights<D, T>,
    rows: usize,
    columns: usize,
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
        Ok(Self { rows: weights.len() / columns, weights: Weights::Plain(weights), columns })
    }

    /// A matrix of eight bits each and a scale for every 32 of a row, as [`super::arrange_q8_0`] makes it.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn q8_0(quants: Buffer<D, u32>, scales: Buffer<D, u32>, columns: usize) -> Result<Self, DeviceError> {
        let [_, kernel, _] = T::EMBED;
        require(columns > 0 && columns.is_multiple_of(GROUP), kernel, "rows are not whole groups")?;
        let rows = whole_rows(kernel, [quants.len(), scales.len()], q8_0_words(columns))?;
        Ok(Self { weights: Weights::Q8_0 { quants, scales }, rows, columns })
    }

    /// A matrix of four bits each, and a scale and a minimum for every 32 of a row, as [`super::arrange_q4k`] makes it.
    ///
    /// # Errors
    /// The sizes do not fit.
    pub fn q4k(quants: Buffer<D, u32>, heads: Buffer<D, u32>, columns: usize) -> Result<Self, DeviceError> {
        let [_, _, kernel] = T::EMBED;
        require(columns > 0 && columns.is_multiple_of(BLOCK), kernel, "rows are not whole blocks")?;
        let rows = whole_rows(kernel, [quants.len(), heads.len()], q4k_words(columns))?;
        Ok(Self { weights: Weights::Q4K { quants, heads }, rows, columns })
    }

    /// How many rows it has: as many numbers has a product.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many columns it has: as many numbers has what it is multiplied with.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Writes the product with each row of `x` into a row of `out`. A row's result does not depend on the others.
    ///
    /// # Errors
    /// The sizes do not fit, or a launch failed.
    pub fn multiply(
        &self,
        device: &D,
        x: View<'_, T>,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let kernels = self.weights.of(T::SKINNY);
        let vectors = self.vectors(kernels[0], x, out)?;
        for first in (0..vectors).step_by(MOST_VECTORS) {
            let last = vectors.min(first + MOST_VECTORS);
            let x = x.part(first * self.columns..last * self.columns)?;
            let mut out = out.again().part(first * self.rows..last * self.rows)?;
            let fits = SKINNY.into_iter().zip(kernels).find(|((most, _), _)| last - first <= *most);
            let Some(((_, together), kernel)) = fits else { continue };
            let rows = count(kernel, self.rows)?;
            self.product(device, kernel, [rows.div_ceil(together), 1, 1], x, &mut out)?;
        }
        Ok(())
    }

    /// As [`Matrix::multiply`], for many rows at once; it adds up in another order. Weights that are quantised are rounded
    /// to `T` first.
    ///
    /// # Errors
    /// The sizes do not fit, or the launch failed.
    pub fn multiply_many(
        &self,
        device: &D,
        x: View<'_, T>,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let [kernel, _] = self.weights.of(T::GEMM);
        let tile = Tile::of(count(kernel, self.rows)?, count(kernel, x.len() / self.columns)?);
        self.multiply_in_tiles(device, tile, x, out)
    }

    /// As [`Matrix::multiply_many`], in tiles of a size.
    ///
    /// # Errors
    /// The sizes do not fit, or the launch failed.
    pub fn multiply_in_tiles(
        &self,
        device: &D,
        tile: Tile,
        x: View<'_, T>,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let [small, large] = self.weights.of(T::GEMM);
        let kernel = if tile == Tile::Small { small } else { large };
        let vectors = count(kernel, self.vectors(kernel, x, out)?)?;
        let rows = count(kernel, self.rows)?;
        self.product(device, kernel, [vectors, rows, 1].map(|side| side.div_ceil(tile.side())), x, out)
    }

    /// Of how many vectors `x` is, if `out` has room for the product with each.
    fn vectors(
        &self,
        kernel: &'static str,
        x: View<'_, T>,
        out: &ViewMut<'_, f32>,
    ) -> Result<usize, DeviceError> {
        let vectors = x.len() / self.columns;
        require(x.len() == vectors * self.columns, kernel, "the vectors are not whole")?;
        require(out.len() == vectors * self.rows, kernel, "the result is of another size")?;
        Ok(vectors)
    }

    fn product(
        &self,
        device: &D,
        kernel: &'static str,
        grid: [u32; 3],
        x: View<'_, T>,
        out: &mut ViewMut<'_, f32>,
    ) -> Result<(), DeviceError> {
        let vectors = self.vectors(kernel, x, out)?;
        if grid.contains(&0) {
            return Ok(());
        }
        let [numbers, scales] = self.weights.args();
        let [rows, columns] = [count(kernel, self.rows)?, count(kernel, self.columns)?];
        let args = [
            numbers,
            scales,
            x.arg(),
            out.arg(),
            rows.into(),
            columns.into(),
            count(kernel, vectors)?.into(),
        ];
        // SAFETY: weights, vectors and results are of these sizes, as was checked.
        #[allow(unsafe_code)]
        unsafe {
            device.launch(kernel, Shape { grid, threads: THREADS, shared_bytes: 0 }, &args)
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
        #[allow(unsafe_code)]
        unsafe {
            device.launch(kernel, Shape { grid: [batch, 1, 1], threads, shared_bytes: 0 }, &args)
        }
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

/// How many rows so many words are, if a row takes `each` of them.
fn whole_rows(kernel: &'static str, words: [usize; 2], each: [usize; 2]) -> Result<usize, DeviceError> {
    let [rows, others] = [words[0] / each[0], words[1] / each[1]];
    let whole = rows == others && words == [rows * each[0], rows * each[1]];
    require(whole, kernel, "quants and scales are not of the same whole rows").map(|()| rows)
}
