//! Activations packed as the kernels read them: in tiles of a few tokens, in the type that is multiplied with the weights.
//!
//! A token is rounded by itself, so what becomes of it does not depend on its neighbours.

use half::bf16;
use rayon::prelude::*;

use super::Level;
use super::simd::{Kernel, LANES, Lane, Simd};

/// Numbers that share a scale.
const BLOCK: usize = 32;
/// Numbers that one step multiplies.
pub(super) const STEP: usize = 4;
/// Numbers below which other threads are not worth waking.
const SERIAL: usize = 1 << 16;

/// How `count` tokens are cut into tiles: the first of each, and how many it has.
pub(super) fn tiles(widths: &'static [usize], count: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut first = 0;
    std::iter::from_fn(move || {
        let width = *widths.iter().find(|width| **width <= count - first)?;
        first += width;
        Some((first - width, width))
    })
}

/// Eight bits for each activation of a token, and a scale for every 32.
///
/// In all of them a tile of `n` tokens is `n` elements for each step, after those of the tiles before it.
#[derive(Default)]
pub(super) struct Bytes {
    pub(super) quants: Vec<[i8; STEP]>,
    pub(super) scales: Vec<f32>,
    /// -128 times the sum of the quants.
    pub(super) biases: Vec<i32>,
    /// The sum of the quants times minus the scale.
    pub(super) sums: Vec<f32>,
}

/// The elements of one token in a tile.
type Steps<'a, T> = std::iter::StepBy<std::slice::IterMut<'a, T>>;

/// Activations of tokens that have `columns` each.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) x: &'a [f32],
    pub(super) columns: usize,
}

impl Rows<'_> {
    /// As they are, with zeros up to `padded` columns.
    pub(super) fn full(self, level: Level, padded: usize) -> Vec<f32> {
        self.pack(level, padded, |x: &[f32], to: Steps<'_, f32>| {
            for (to, x) in to.zip(x) {
                *to = *x;
            }
        })
    }

    /// Rounded to bf16, two for each step.
    pub(super) fn pairs(self, level: Level) -> Vec<[u16; 2]> {
        self.pack(level, self.columns.div_ceil(2), |x: &[f32], to: Steps<'_, [u16; 2]>| {
            for (to, x) in to.zip(x.chunks(2)) {
                for (to, x) in to.iter_mut().zip(x) {
                    *to = bf16::from_f32(*x).to_bits();
                }
            }
        })
    }

    /// `fill` gets a token and its elements, of which there are `steps`.
    fn pack<T: Copy + Default + Send>(
        self,
        level: Level,
        steps: usize,
        fill: impl Fn(&[f32], Steps<'_, T>) + Sync,
    ) -> Vec<T> {
        let count = self.x.len() / self.columns;
        let mut packed = vec![T::default(); count * steps];
        let mut rest = packed.as_mut_slice();
        let mut parts = Vec::new();
        for (first, width) in tiles(level.widths(), count) {
            let (part, after) = rest.split_at_mut(width * steps);
            parts.push((part, &self.x[first * self.columns..][..width * self.columns], width));
            rest = after;
        }
        let task = |(to, x, width): (&mut [T], &[f32], usize)| {
            for (token, x) in x.chunks_exact(self.columns).enumerate() {
                fill(x, to[token..].iter_mut().step_by(width));
            }
        };
        if self.x.len() < SERIAL {
            parts.into_iter().for_each(task);
        } else {
            parts.into_par_iter().for_each(task);
        }
        packed
    }

    /// Rounded to eight bits, with zeros up to a multiple of `multiple` columns.
    pub(super) fn bytes(self, level: Level, multiple: usize) -> Bytes {
        let count = self.x.len() / self.columns;
        let blocks = self.columns.next_multiple_of(multiple) / BLOCK;
        let mut bytes = Bytes {
            quants: vec![[0; STEP]; count * blocks * (BLOCK / STEP)],
            scales: vec![0.0; count * blocks],
            biases: vec![0; count * blocks],
            sums: vec![0.0; count * blocks],
        };
        let mut rest = Part {
            quants: &mut bytes.quants,
            scales: &mut bytes.scales,
            biases: &mut bytes.biases,
            sums: &mut bytes.sums,
        };
        let mut parts = Vec::new();
        for (first, width) in tiles(level.widths(), count) {
            let (part, after) = rest.split_at(width * blocks);
            parts.push((part, &self.x[first * self.columns..][..width * self.columns], width));
            rest = after;
        }
        let task = |(to, x, width): (Part<'_>, &[f32], usize)| {
            level.run(Round { to, x, width, columns: self.columns });
        };
        if self.x.len() < SERIAL {
            parts.into_iter().for_each(task);
        } else {
            parts.into_par_iter().for_each(task);
        }
        bytes
    }
}

/// A tile of [`Bytes`].
struct Part<'a> {
    quants: &'a mut [[i8; STEP]],
    scales: &'a mut [f32],
    biases: &'a mut [i32],
    sums: &'a mut [f32],
}

impl<'a> Part<'a> {
    /// Splits off `blocks` blocks.
    fn split_at(self, blocks: usize) -> (Self, Self) {
        let (quants, more_quants) = self.quants.split_at_mut(blocks * (BLOCK / STEP));
        let (scales, more_scales) = self.scales.split_at_mut(blocks);
        let (biases, more_biases) = self.biases.split_at_mut(blocks);
        let (sums, more_sums) = self.sums.split_at_mut(blocks);
        (
            Self { quants, scales, biases, sums },
            Self { quants: more_quants, scales: more_scales, biases: more_biases, sums: more_sums },
        )
    }
}

/// Rounds a tile to eight bits.
struct Round<'a> {
    to: Part<'a>,
    x: &'a [f32],
    width: usize,
    columns: usize,
}

impl Kernel for Round<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { to, x, width, columns } = self;
        for (token, x) in x.chunks_exact(columns).enumerate() {
            for (block, x) in x.chunks(BLOCK).enumerate() {
                let mut numbers = [[0.0; LANES]; BLOCK / LANES];
                numbers.as_flattened_mut()[..x.len()].copy_from_slice(x);
                let (scale, quants) = round(simd, &numbers);
                let sum: i32 = quants.iter().map(|quant| i32::from(*quant)).sum();
                let at = block * width + token;
                to.scales[at] = scale;
                to.biases[at] = -128 * sum;
                to.sums[at] = -scale * sum as f32;
                for (step, quants) in quants.as_chunks::<STEP>().0.iter().enumerate() {
                    to.quants[(block * (BLOCK / STEP) + step) * width + token] = *quants;
                }
            }
        }
    }
}

/// The nearest of 255 equidistant numbers, and the distance: not a number if one of `numbers` is not finite.
#[inline(always)]
fn round<S: Simd>(simd: S, numbers: &[Lane<f32>; BLOCK / LANES]) -> (f32, [i8; BLOCK]) {
    let [a, b] = [simd.load(&numbers[0]), simd.load(&numbers[1])];
    let magnitude = |value: S::V| simd.max(value, simd.mul(value, simd.splat(-1.0)));
    let mut most = [0.0; LANES];
    simd.store(simd.max(magnitude(a), magnitude(b)), &mut most);
    let most = most.iter().fold(0.0f32, |most, value| if *value > most { *value } else { most });
    // Zero, unless something is not finite.
    let broken = simd
        .sum(simd.mul(simd.add(simd.mul(a, simd.splat(0.0)), simd.mul(b, simd.splat(0.0))), simd.splat(1.0)));
    // Below this the inverse would be infinite.
    let inverse = if most > 1e-30 { 127.0 / most } else { 0.0 };
    let mut quants = [0; BLOCK];
    for (value, quants) in [a, b].into_iter().zip(quants.as_chunks_mut::<LANES>().0) {
        let mut whole = [0.0; LANES];
        simd.store(simd.round(simd.mul(value, simd.splat(inverse))), &mut whole);
        *quants = whole.map(|whole| whole as i8);
    }
    (if inverse > 0.0 { most / 127.0 } else { 0.0 } + broken, quants)
}
