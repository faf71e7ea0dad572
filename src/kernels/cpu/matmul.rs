//! Activations times a matrix of weights: `out[n][row] = Σ x[n][column] · weight[row][column]`.
//!
//! Few activations: weights are widened in registers, four rows at a time, at the speed of the memory. Many: a panel
//! of weights is widened once into the cache and meets all activations there. Either way an output is sixteen
//! sums over the columns in their order, then one tree: the same bits.
//!
//! Must not touch: what the numbers mean.

use rayon::prelude::*;

use super::Level;
use super::matrix::{BLOCK, Block, Matrix, Store};
use super::simd::{Kernel, LANES, Lane, Simd};

/// Rows that are worked on together, each a chain of its own.
const ROWS: usize = 4;
/// Activations for which widening weights in registers, again for every four, is cheaper than making a panel.
const FEW: usize = 12;
/// Rows of a panel.
const PANEL_ROWS: usize = 32;
/// Blocks of a panel's row: with a tile of activations it fits the first cache.
const PANEL_BLOCKS: usize = 1024 / BLOCK;
/// Activations that meet a panel before the next one is made: they fit the second cache.
const PANEL_TOKENS: usize = 96;
/// Rows of a task.
const TASK_ROWS: usize = 2 * PANEL_ROWS;
/// Products below which other threads are not worth waking.
const SERIAL: usize = 1 << 16;

/// Multiplies the rows of `x` with `matrix`; `out` has `matrix.rows()` numbers for each of them.
pub(crate) fn matmul(level: Level, matrix: &Matrix, x: &[f32], out: &mut [f32]) {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let count = x.len() / columns;
    assert!(x.len() == count * columns && out.len() == count * rows, "shapes do not fit");
    let padded;
    let x = if columns.is_multiple_of(BLOCK) {
        blocks_of(x)
    } else {
        padded = pad(x, columns);
        &padded
    };
    let serial = count * rows * columns < SERIAL;
    if count == 1 {
        let task = |(index, out): (usize, &mut [f32])| {
            level.run(Few { matrix, first: index * TASK_ROWS, x, out: &mut [out] });
        };
        if serial {
            out.chunks_mut(TASK_ROWS).enumerate().for_each(task);
        } else {
            out.par_chunks_mut(TASK_ROWS).enumerate().for_each(task);
        }
        return;
    }
    let task = |scratch: &mut Scratch, (index, mut out): (usize, Vec<&mut [f32]>)| {
        let (first, out) = (index * TASK_ROWS, out.as_mut_slice());
        if count <= FEW {
            level.run(Few { matrix, first, x, out });
        } else {
            level.run(Batch { matrix, first, x, out, scratch });
        }
    };
    let mut columns_of_out: Vec<_> = out.chunks_mut(rows).map(|row| row.chunks_mut(TASK_ROWS)).collect();
    let tasks: Vec<Vec<&mut [f32]>> = (0..rows.div_ceil(TASK_ROWS))
        .map(|_| columns_of_out.iter_mut().filter_map(Iterator::next).collect())
        .collect();
    if serial {
        let mut scratch = Scratch::new(count);
        tasks.into_iter().enumerate().for_each(|item| task(&mut scratch, item));
    } else {
        tasks.into_par_iter().enumerate().for_each_init(|| Scratch::new(count), task);
    }
}

fn blocks_of(x: &[f32]) -> &[Block<f32>] {
    x.as_chunks::<LANES>().0.as_chunks::<2>().0
}

/// Each row of `x` with zeros up to a whole block.
fn pad(x: &[f32], columns: usize) -> Vec<Block<f32>> {
    let blocks = columns.div_ceil(BLOCK);
    let mut padded = vec![[[0.0; LANES]; 2]; x.len() / columns * blocks];
    for (to, from) in padded.chunks_mut(blocks).zip(x.chunks(columns)) {
        to.as_flattened_mut().as_flattened_mut()[..columns].copy_from_slice(from);
    }
    padded
}

/// How a type of weights is read.
trait Rows: Copy {
    type Row: Copy;

    fn row(self, row: usize) -> Self::Row;
    fn widen<S: Simd>(simd: S, row: Self::Row, block: usize) -> [S::V; 2];
    /// Asks for the block that lies `ahead` blocks further.
    fn prefetch<S: Simd>(simd: S, row: Self::Row, block: usize, ahead: usize);
}

#[derive(Clone, Copy)]
struct Full<'a>(&'a [Block<f32>], usize);
#[derive(Clone, Copy)]
struct Half<'a>(&'a [Block<u16>], usize);
#[derive(Clone, Copy)]
struct Quants<'a>(&'a [Block<i8>], &'a [u16], usize);

impl<'a> Rows for Full<'a> {
    type Row = &'a [Block<f32>];

    #[inline(always)]
    fn row(self, row: usize) -> Self::Row {
        &self.0[row * self.1..][..self.1]
    }

    #[inline(always)]
    fn widen<S: Simd>(simd: S, row: Self::Row, block: usize) -> [S::V; 2] {
        [simd.load(&row[block][0]), simd.load(&row[block][1])]
    }

    #[inline(always)]
    fn prefetch<S: Simd>(simd: S, row: Self::Row, block: usize, ahead: usize) {
        simd.prefetch(row, block + ahead);
        simd.prefetch(row.as_flattened(), 2 * (block + ahead) + 1);
    }
}

impl<'a> Rows for Half<'a> {
    type Row = &'a [Block<u16>];

    #[inline(always)]
    fn row(self, row: usize) -> Self::Row {
        &self.0[row * self.1..][..self.1]
    }

    #[inline(always)]
    fn widen<S: Simd>(simd: S, row: Self::Row, block: usize) -> [S::V; 2] {
        [simd.load_bf16(&row[block][0]), simd.load_bf16(&row[block][1])]
    }

    #[inline(always)]
    fn prefetch<S: Simd>(simd: S, row: Self::Row, block: usize, ahead: usize) {
        simd.prefetch(row, block + ahead);
    }
}

impl<'a> Rows for Quants<'a> {
    type Row = (&'a [Block<i8>], &'a [u16]);

    #[inline(always)]
    fn row(self, row: usize) -> Self::Row {
        (&self.0[row * self.2..][..self.2], &self.1[row * self.2..][..self.2])
    }

    /// Eight bits times eleven are exact in f32.
    #[inline(always)]
    fn widen<S: Simd>(simd: S, (quants, scales): Self::Row, block: usize) -> [S::V; 2] {
        let scale = simd.splat_f16(scales[block]);
        let [low, high] = &quants[block];
        [simd.mul(simd.load_i8(low), scale), simd.mul(simd.load_i8(high), scale)]
    }

    #[inline(always)]
    fn prefetch<S: Simd>(simd: S, (quants, _): Self::Row, block: usize, ahead: usize) {
        if block.is_multiple_of(2) {
            simd.prefetch(quants, block + ahead);
        }
    }
}

/// Some rows times few activations.
struct Few<'a, 'out> {
    matrix: &'a Matrix,
    first: usize,
    x: &'a [Block<f32>],
    /// For each activation the outputs of these rows.
    out: &'a mut [&'out mut [f32]],
}

impl Kernel for Few<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let blocks = self.matrix.blocks();
        match &self.matrix.store {
            Store::F32(all) => self.rows(simd, Full(all, blocks)),
            Store::Bf16(all) => self.rows(simd, Half(all, blocks)),
            Store::Q8 { quants, scales } => self.rows(simd, Quants(quants, scales, blocks)),
        }
    }
}

impl Few<'_, '_> {
    #[inline(always)]
    fn rows<S: Simd, R: Rows>(self, simd: S, rows: R) {
        let blocks = self.matrix.blocks();
        let height = self.out.first().map_or(0, |out| out.len());
        let in_quads = height - height % ROWS;
        for at in (0..in_quads).step_by(ROWS) {
            let row = |offset: usize| rows.row(self.first + at + offset);
            products::<S, R, ROWS>(simd, [row(0), row(1), row(2), row(3)], at, self.x, blocks, self.out);
        }
        for at in in_quads..height {
            products::<S, R, 1>(simd, [rows.row(self.first + at)], at, self.x, blocks, self.out);
        }
    }
}

/// Writes what `rows`, the first of which is output `at`, make with all activations.
#[inline(always)]
fn products<S: Simd, R: Rows, const M: usize>(
    simd: S,
    rows: [R::Row; M],
    at: usize,
    x: &[Block<f32>],
    blocks: usize,
    out: &mut [&mut [f32]],
) {
    let together = if S::WIDE { 4 } else { 1 };
    for (out, x) in out.chunks_mut(together).zip(x.chunks(together * blocks)) {
        match out.len() {
            4 => dots::<S, R, M, 4>(simd, rows, at, x, blocks, out),
            3 => dots::<S, R, M, 3>(simd, rows, at, x, blocks, out),
            2 => dots::<S, R, M, 2>(simd, rows, at, x, blocks, out),
            _ => dots::<S, R, M, 1>(simd, rows, at, x, blocks, out),
        }
    }
}

/// `M` rows and `N` activations in registers, from the first column to the last.
#[inline(always)]
fn dots<S: Simd, R: Rows, const M: usize, const N: usize>(
    simd: S,
    rows: [R::Row; M],
    at: usize,
    x: &[Block<f32>],
    blocks: usize,
    out: &mut [&mut [f32]],
) {
    let x: [&[Block<f32>]; N] = std::array::from_fn(|n| &x[n * blocks..][..blocks]);
    let mut sums = [[simd.splat(0.0); N]; M];
    for block in 0..blocks {
        for (row, sums) in rows.iter().zip(&mut sums) {
            // The next rows lie right behind these.
            R::prefetch(simd, *row, block, M * blocks);
            let [low, high] = R::widen(simd, *row, block);
            for (x, sum) in x.iter().zip(sums) {
                *sum = simd.fma(low, simd.load(&x[block][0]), *sum);
                *sum = simd.fma(high, simd.load(&x[block][1]), *sum);
            }
        }
    }
    for (n, out) in out.iter_mut().enumerate().take(N) {
        for (out, sums) in out[at..at + M].iter_mut().zip(&sums) {
            *out = simd.sum(sums[n]);
        }
    }
}

/// What a task needs beside its inputs.
struct Scratch {
    /// The panel: [`PANEL_ROWS`] rows of [`PANEL_BLOCKS`] blocks.
    panel: Vec<Block<f32>>,
    /// The sums so far: sixteen for each row of the panel and each activation.
    sums: Vec<[Lane<f32>; PANEL_ROWS]>,
}

impl Scratch {
    fn new(count: usize) -> Self {
        Self {
            panel: vec![[[0.0; LANES]; 2]; PANEL_ROWS * PANEL_BLOCKS],
            sums: vec![[[0.0; LANES]; PANEL_ROWS]; count.min(PANEL_TOKENS)],
        }
    }
}

/// Some rows times several activations.
struct Batch<'a, 'out> {
    matrix: &'a Matrix,
    first: usize,
    x: &'a [Block<f32>],
    /// For each activation the outputs of these rows.
    out: &'a mut [&'out mut [f32]],
    scratch: &'a mut Scratch,
}

impl Kernel for Batch<'_, '_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let blocks = self.matrix.blocks();
        match &self.matrix.store {
            Store::F32(all) => self.rows(simd, Full(all, blocks)),
            Store::Bf16(all) => self.rows(simd, Half(all, blocks)),
            Store::Q8 { quants, scales } => self.rows(simd, Quants(quants, scales, blocks)),
        }
    }
}

impl Batch<'_, '_> {
    #[inline(always)]
    fn rows<S: Simd, R: Rows>(self, simd: S, rows: R) {
        let blocks = self.matrix.blocks();
        let Scratch { panel, sums } = self.scratch;
        let x = self.x.chunks(PANEL_TOKENS * blocks);
        for (out, x) in self.out.chunks_mut(PANEL_TOKENS).zip(x) {
            let sums = &mut sums[..out.len()];
            let count = out.first().map_or(0, |out| out.len());
            for start in (0..count).step_by(PANEL_ROWS) {
                let height = PANEL_ROWS.min(count - start);
                sums.fill([[0.0; LANES]; PANEL_ROWS]);
                for from in (0..blocks).step_by(PANEL_BLOCKS) {
                    let width = PANEL_BLOCKS.min(blocks - from);
                    // Rows beyond the last hold what was there before: finite or not, their sums are not read.
                    for (row, to) in panel.chunks_mut(width).take(height).enumerate() {
                        let row = rows.row(self.first + start + row);
                        for (block, to) in to.iter_mut().enumerate() {
                            let [low, high] = R::widen(simd, row, from + block);
                            simd.store(low, &mut to[0]);
                            simd.store(high, &mut to[1]);
                        }
                    }
                    let panel = &panel[..height.next_multiple_of(ROWS) * width];
                    if S::WIDE {
                        meet::<S, 6>(simd, panel, width, x, blocks, from, sums);
                    } else {
                        meet::<S, 1>(simd, panel, width, x, blocks, from, sums);
                    }
                }
                for (out, sums) in out.iter_mut().zip(sums.iter()) {
                    for (out, sum) in out[start..start + height].iter_mut().zip(sums) {
                        *out = simd.sum(simd.load(sum));
                    }
                }
            }
        }
    }
}

/// Adds to `sums` what a panel, whose first column is block `from` of the matrix, and all activations make.
#[inline(always)]
fn meet<S: Simd, const N: usize>(
    simd: S,
    panel: &[Block<f32>],
    width: usize,
    x: &[Block<f32>],
    blocks: usize,
    from: usize,
    sums: &mut [[Lane<f32>; PANEL_ROWS]],
) {
    for (sums, x) in sums.chunks_mut(N).zip(x.chunks(N * blocks)) {
        for (quad, weights) in panel.chunks_exact(ROWS * width).enumerate() {
            let row = |row: usize| &weights[row * width..][..width];
            let rows = [row(0), row(1), row(2), row(3)];
            match sums.len() {
                6 => tile::<S, 6>(simd, rows, x, blocks, from, quad, sums),
                5 => tile::<S, 5>(simd, rows, x, blocks, from, quad, sums),
                4 => tile::<S, 4>(simd, rows, x, blocks, from, quad, sums),
                3 => tile::<S, 3>(simd, rows, x, blocks, from, quad, sums),
                2 => tile::<S, 2>(simd, rows, x, blocks, from, quad, sums),
                _ => tile::<S, 1>(simd, rows, x, blocks, from, quad, sums),
            }
        }
    }
}

/// Four rows and `N` activations in registers.
#[inline(always)]
fn tile<S: Simd, const N: usize>(
    simd: S,
    rows: [&[Block<f32>]; ROWS],
    x: &[Block<f32>],
    blocks: usize,
    from: usize,
    quad: usize,
    sums: &mut [[Lane<f32>; PANEL_ROWS]],
) {
    let width = rows[0].len();
    let x: [&[Block<f32>]; N] = std::array::from_fn(|n| &x[n * blocks + from..][..width]);
    let mut tile = [[simd.splat(0.0); N]; ROWS];
    for (row, tile) in tile.iter_mut().enumerate() {
        for (n, tile) in tile.iter_mut().enumerate() {
            *tile = simd.load(&sums[n][quad * ROWS + row]);
        }
    }
    for block in 0..width {
        for half in 0..2 {
            let x: [S::V; N] = std::array::from_fn(|n| simd.load(&x[n][block][half]));
            for (row, tile) in rows.iter().zip(&mut tile) {
                let weight = simd.load(&row[block][half]);
                for (x, tile) in x.iter().zip(tile) {
                    *tile = simd.fma(weight, *x, *tile);
                }
            }
        }
    }
    for (row, tile) in tile.iter().enumerate() {
        for (n, tile) in tile.iter().enumerate() {
            simd.store(*tile, &mut sums[n][quad * ROWS + row]);
        }
    }
}
