//! Activations times a matrix of weights: `out[n][row] = Σ x[n][column] · weight[row][column]`.
//!
//! Sixteen rows are a panel, and lie side by side in a register: no sum is ever taken across one. A tile of panels and
//! tokens stays in registers from the first column to the last, and how it is cut changes nothing in a sum's order.

use rayon::prelude::*;

use super::Level;
use super::activations::{Rows, tiles};
use super::matrix::{EIGHT_BIT_COLUMNS, Matrix, PANEL, Store};
use super::q4k;
use super::simd::{Kernel, LANES, Simd};
use super::tile::{Bf16, Eight, Four, Full, Halves, Product};

/// Panels of a task.
const TASK_PANELS: usize = 4;
/// Tokens whose sums for two panels fit into sixteen registers of half a lane.
const NARROW_PAIR: usize = 3;
/// Products below which other threads are not worth waking.
const SERIAL: usize = 1 << 16;

/// Multiplies the rows of `x` with `matrix`; `out` has `matrix.rows()` numbers for each of them.
pub fn matmul(level: Level, matrix: &Matrix, x: &[f32], out: &mut [f32]) {
    let (rows, columns) = (matrix.rows(), matrix.columns());
    let count = x.len() / columns;
    assert!(x.len() == count * columns && out.len() == count * rows, "shapes do not fit");
    let serial = count * rows * columns < SERIAL;
    let x = Rows { x, columns };
    let tasks = Tasks { level, rows, count, serial };
    match &matrix.store {
        Store::F32(weights) => tasks.run(Full { weights, columns, x: &x.full(level, columns) }, out),
        Store::Bf16(weights) if level.multiplies_bf16() => {
            tasks.run(Bf16 { weights, steps: columns.div_ceil(2), x: &x.pairs(level) }, out);
        }
        Store::Bf16(weights) => {
            let steps = columns.div_ceil(2);
            tasks.run(Halves { weights, steps, x: &x.full(level, 2 * steps) }, out);
        }
        Store::Q8(weights) => {
            let blocks = columns.div_ceil(EIGHT_BIT_COLUMNS);
            tasks.run(Eight { weights, blocks, x: &x.bytes(level, EIGHT_BIT_COLUMNS) }, out);
        }
        Store::Q4(weights) => {
            let blocks = columns / q4k::COLUMNS;
            tasks.run(Four { weights, blocks, x: &x.bytes(level, q4k::COLUMNS) }, out);
        }
    }
}

/// How a product is split into tasks.
struct Tasks {
    level: Level,
    rows: usize,
    count: usize,
    serial: bool,
}

impl Tasks {
    fn run(&self, product: impl Product, out: &mut [f32]) {
        const TASK_ROWS: usize = TASK_PANELS * PANEL;
        let (level, count) = (self.level, self.count);
        let task = |index: usize, out: &mut [&mut [f32]]| {
            level.run(Task { product, first: index * TASK_PANELS, out });
        };
        if count == 1 {
            if self.serial {
                out.chunks_mut(TASK_ROWS).enumerate().for_each(|(index, out)| task(index, &mut [out]));
            } else {
                out.par_chunks_mut(TASK_ROWS).enumerate().for_each(|(index, out)| task(index, &mut [out]));
            }
            return;
        }
        let mut columns: Vec<_> = out.chunks_mut(self.rows).map(|row| row.chunks_mut(TASK_ROWS)).collect();
        let parts: Vec<Vec<&mut [f32]>> = (0..self.rows.div_ceil(TASK_ROWS))
            .map(|_| columns.iter_mut().filter_map(Iterator::next).collect())
            .collect();
        if self.serial {
            parts.into_iter().enumerate().for_each(|(index, mut out)| task(index, &mut out));
        } else {
            parts.into_par_iter().enumerate().for_each(|(index, mut out)| task(index, &mut out));
        }
    }
}

/// Some panels times all activations.
struct Task<'a, 'out, P> {
    product: P,
    /// The first panel.
    first: usize,
    /// For each token the outputs of these panels.
    out: &'a mut [&'out mut [f32]],
}

impl<P: Product> Kernel for Task<'_, '_, P> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let panels = self.out.first().map_or(0, |out| out.len().div_ceil(PANEL));
        let count = self.out.len();
        for panel in (0..panels).step_by(P::PANELS) {
            let left = P::PANELS.min(panels - panel);
            for (first, width) in tiles(S::WIDTHS, count) {
                if left == 2 && (S::WIDE || width <= NARROW_PAIR) {
                    self.tiles::<S, 2>(simd, panel, first, width);
                } else {
                    // No closure: only what is inlined uses the instructions.
                    for panel in panel..panel + left {
                        self.tiles::<S, 1>(simd, panel, first, width);
                    }
                }
            }
        }
    }
}

impl<P: Product> Task<'_, '_, P> {
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(&mut self, simd: S, panel: usize, first: usize, width: usize) {
        if S::WIDE {
            match width {
                12 => return self.tile::<S, R, 12>(simd, panel, first),
                8 => return self.tile::<S, R, 8>(simd, panel, first),
                _ => {}
            }
        }
        match width {
            6 => self.tile::<S, R, 6>(simd, panel, first),
            4 => self.tile::<S, R, 4>(simd, panel, first),
            3 => self.tile::<S, R, 3>(simd, panel, first),
            2 => self.tile::<S, R, 2>(simd, panel, first),
            _ => self.tile::<S, R, 1>(simd, panel, first),
        }
    }

    /// `R` panels times `N` tokens.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(&mut self, simd: S, panel: usize, first: usize) {
        let sums = self.product.tile::<S, R, N>(simd, self.first + panel, first);
        for (r, sums) in sums.into_iter().enumerate() {
            for (sum, out) in sums.into_iter().zip(&mut self.out[first..]) {
                let out = &mut out[(panel + r) * PANEL..];
                match out.first_chunk_mut::<LANES>() {
                    Some(out) => simd.store(sum, out),
                    None => {
                        let mut lane = [0.0; LANES];
                        simd.store(sum, &mut lane);
                        out.copy_from_slice(&lane[..out.len()]);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
