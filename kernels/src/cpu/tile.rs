//! What is between two loads and a sum: each type of weights times the activations that it is multiplied with.
//!
//! A sum goes from the first column to the last, in every tile. Products of bytes are whole numbers, and exact.

use super::activations::{Bytes, STEP};
use super::matrix::EightBitBlock;
use super::q4k::{FourBitBlock, GROUPS};
use super::simd::{Lane, Simd};

/// Weights and the activations that they meet.
pub(super) trait Product: Copy + Send + Sync {
    /// Panels that are worked on together, if there are so many: one or two.
    const PANELS: usize;

    /// The products of `R` panels from `panel` on with the `N` tokens from `first` on, which are a tile.
    fn tile<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        panel: usize,
        first: usize,
    ) -> [[S::V; N]; R];
}

/// f32 times f32.
#[derive(Clone, Copy)]
pub(super) struct Full<'a> {
    pub(super) weights: &'a [Lane<f32>],
    pub(super) columns: usize,
    pub(super) x: &'a [f32],
}

/// Pairs of bf16, widened, times f32.
#[derive(Clone, Copy)]
pub(super) struct Halves<'a> {
    pub(super) weights: &'a [Lane<[u16; 2]>],
    /// Pairs of columns.
    pub(super) steps: usize,
    pub(super) x: &'a [f32],
}

/// Pairs of bf16 times pairs of bf16.
#[derive(Clone, Copy)]
pub(super) struct Bf16<'a> {
    pub(super) weights: &'a [Lane<[u16; 2]>],
    /// See [`Halves::steps`].
    pub(super) steps: usize,
    pub(super) x: &'a [[u16; 2]],
}

/// Bytes times bytes.
#[derive(Clone, Copy)]
pub(super) struct Eight<'a> {
    pub(super) weights: &'a [EightBitBlock],
    /// Blocks of a row.
    pub(super) blocks: usize,
    pub(super) x: &'a Bytes,
}

/// Halves of bytes times bytes.
#[derive(Clone, Copy)]
pub(super) struct Four<'a> {
    pub(super) weights: &'a [FourBitBlock],
    /// Blocks of a row.
    pub(super) blocks: usize,
    pub(super) x: &'a Bytes,
}

/// The panels from `panel` on, each of `length` elements.
#[inline(always)]
fn panels<T, const R: usize>(weights: &[T], length: usize, panel: usize) -> [&[T]; R] {
    std::array::from_fn(|r| &weights[(panel + r) * length..][..length])
}

/// The elements of a tile, `steps` times `N`.
#[inline(always)]
fn tile<T, const N: usize>(all: &[T], steps: usize, first: usize) -> &[[T; N]] {
    all[first * steps..][..N * steps].as_chunks().0
}

impl Product for Full<'_> {
    const PANELS: usize = 2;

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        panel: usize,
        first: usize,
    ) -> [[S::V; N]; R] {
        let panels = panels::<_, R>(self.weights, self.columns, panel);
        let x = tile::<_, N>(self.x, self.columns, first);
        let mut sums = [[simd.splat(0.0); N]; R];
        for (column, x) in x.iter().enumerate() {
            let weights = panels.map(|panel| simd.load(&panel[column]));
            for (n, x) in x.iter().enumerate() {
                let x = simd.splat(*x);
                for (sums, weight) in sums.iter_mut().zip(weights) {
                    sums[n] = simd.fma(weight, x, sums[n]);
                }
            }
        }
        sums
    }
}

impl Product for Halves<'_> {
    const PANELS: usize = 2;

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        panel: usize,
        first: usize,
    ) -> [[S::V; N]; R] {
        let panels = panels::<_, R>(self.weights, self.steps, panel);
        let (x, _) = tile::<_, N>(self.x, 2 * self.steps, first).as_chunks::<2>();
        let mut sums = [[simd.splat(0.0); N]; R];
        for (step, x) in x.iter().enumerate() {
            for (panel, sums) in panels.iter().zip(&mut sums) {
                for (weight, x) in simd.load_pairs(&panel[step]).into_iter().zip(x) {
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = simd.fma(weight, simd.splat(*x), *sum);
                    }
                }
            }
        }
        sums
    }
}

impl Product for Bf16<'_> {
    const PANELS: usize = 2;

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        panel: usize,
        first: usize,
    ) -> [[S::V; N]; R] {
        let panels = panels::<_, R>(self.weights, self.steps, panel);
        let x = tile::<_, N>(self.x, self.steps, first);
        let mut sums = [[simd.splat(0.0); N]; R];
        for (step, x) in x.iter().enumerate() {
            for (n, x) in x.iter().enumerate() {
                for (sums, panel) in sums.iter_mut().zip(panels) {
                    sums[n] = simd.dot_bf16(sums[n], &panel[step], *x);
                }
            }
        }
        sums
    }
}

/// Steps of 32 columns.
const STEPS: usize = 32 / STEP;

impl Product for Eight<'_> {
    const PANELS: usize = 1;

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        panel: usize,
        first: usize,
    ) -> [[S::V; N]; R] {
        let halves = 2 * self.blocks;
        let x = tile::<_, N>(&self.x.quants, STEPS * halves, first).as_chunks::<STEPS>().0.as_chunks::<2>().0;
        let scales = tile::<_, N>(&self.x.scales, halves, first).as_chunks::<2>().0;
        let biases = tile::<_, N>(&self.x.biases, halves, first).as_chunks::<2>().0;
        let mut all = [[simd.splat(0.0); N]; R];
        for (sums, panel) in all.iter_mut().zip(panels::<_, R>(self.weights, self.blocks, panel)) {
            for (((block, x), scales), biases) in panel.iter().zip(x).zip(scales).zip(biases) {
                for half in 0..2 {
                    let whole = simd.dot_biased_block(biases[half], &block.quants[half], &x[half]);
                    let scale = simd.load_f16(&block.scales[half]);
                    for ((sum, whole), x) in sums.iter_mut().zip(whole).zip(&scales[half]) {
                        *sum = simd.fma(simd.to_f32(whole), simd.mul(scale, simd.splat(*x)), *sum);
                    }
                }
            }
        }
        all
    }
}

/// Tokens for which both halves of bytes fit into registers at once.
const TOGETHER: usize = 4;

impl Product for Four<'_> {
    const PANELS: usize = 1;

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const N: usize>(
        self,
        simd: S,
        panel: usize,
        first: usize,
    ) -> [[S::V; N]; R] {
        let groups = GROUPS * self.blocks;
        let x = tile::<_, N>(&self.x.quants, STEPS * groups, first);
        let x = x.as_chunks::<STEPS>().0.as_chunks::<2>().0.as_chunks::<{ GROUPS / 2 }>().0;
        let scales = tile::<_, N>(&self.x.scales, groups, first).as_chunks::<GROUPS>().0;
        let totals = tile::<_, N>(&self.x.sums, groups, first).as_chunks::<GROUPS>().0;
        let mut all = [[simd.splat(0.0); N]; R];
        for (sums, panel) in all.iter_mut().zip(panels::<_, R>(self.weights, self.blocks, panel)) {
            for (((block, x), scales), totals) in panel.iter().zip(x).zip(scales).zip(totals) {
                let [unit, minimum_unit] =
                    [&block.unit, &block.minimum_unit].map(|units| simd.load_f16(units));
                for (pair, (weights, x)) in block.quants.iter().zip(x).enumerate() {
                    let mut whole = [[simd.zeros(); N]; 2];
                    if N <= TOGETHER {
                        for (step, weights) in weights.iter().enumerate() {
                            let weights = simd.bytes(weights);
                            for n in 0..N {
                                whole[0][n] =
                                    simd.dot_nibbles(whole[0][n], simd.low_nibbles(weights), x[0][step][n]);
                                whole[1][n] =
                                    simd.dot_nibbles(whole[1][n], simd.high_nibbles(weights), x[1][step][n]);
                            }
                        }
                    } else {
                        // No closure: only what is inlined uses the instructions.
                        let low = simd.dot_nibbles_block(false, weights, &x[0]);
                        whole = [low, simd.dot_nibbles_block(true, weights, &x[1])];
                    }
                    for (half, whole) in whole.iter().enumerate() {
                        let group = 2 * pair + half;
                        let scale = simd.mul(unit, simd.load_u8(&block.scales[group]));
                        let minimum = simd.mul(minimum_unit, simd.load_u8(&block.minima[group]));
                        for (n, (sum, whole)) in sums.iter_mut().zip(whole).enumerate() {
                            let scale = simd.mul(scale, simd.splat(scales[group][n]));
                            *sum = simd.fma(simd.to_f32(*whole), scale, *sum);
                            *sum = simd.fma(minimum, simd.splat(totals[group][n]), *sum);
                        }
                    }
                }
            }
        }
        all
    }
}
