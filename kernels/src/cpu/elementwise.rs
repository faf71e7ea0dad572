//! What happens to each row by itself: norm, rotation, activation, addition. All in f32.

use rayon::prelude::*;

use super::Level;
use super::simd::{Kernel, LANES, Simd};

/// Numbers below which other threads are not worth waking.
const SERIAL: usize = 1 << 15;

/// The least exponent that is told apart from smaller ones. Nothing of it is left beside 1, and its products with
/// values are far from denormal.
pub(super) const LEAST: f32 = -60.0;

/// √(2/π)
const SQRT_2_OVER_PI: f32 = 0.797_884_6;

/// Runs `task` on corresponding rows of `out` and `from`.
fn rows<'a>(
    out: &'a mut [f32],
    width: usize,
    from: &'a [f32],
    from_width: usize,
    task: impl Fn(&mut [f32], &[f32]) + Sync,
) {
    if out.len() < SERIAL {
        out.chunks_mut(width).zip(from.chunks(from_width)).for_each(|(out, from)| task(out, from));
    } else {
        out.par_chunks_mut(width).zip(from.par_chunks(from_width)).for_each(|(out, from)| task(out, from));
    }
}

/// Each row of `x`, divided by its root mean square, times `scale`.
pub fn rms_norm(level: Level, x: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = scale.len();
    rows(out, width, x, width, |out, x| level.run(Norm { x, scale, epsilon, out }));
}

struct Norm<'a> {
    x: &'a [f32],
    scale: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for Norm<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (lanes, rest) = self.x.as_chunks::<LANES>();
        let mut sum = simd.splat(0.0);
        for lane in lanes {
            sum = simd.fma(simd.load(lane), simd.load(lane), sum);
        }
        let squares = simd.sum(sum) + rest.iter().map(|x| x * x).sum::<f32>();
        let factor = (squares / self.x.len() as f32 + self.epsilon).sqrt().recip();
        for ((out, x), scale) in self.out.iter_mut().zip(self.x).zip(self.scale) {
            *out = x * factor * scale;
        }
    }
}

/// By what angles the queries and keys of some tokens are turned.
pub struct Angles {
    half: usize,
    /// For each token the cosines and then the sines.
    table: Vec<f32>,
}

impl Angles {
    /// Those of `positions`. `frequencies` has an angle per position for each pair of a head.
    pub fn new(frequencies: &[f32], positions: impl Iterator<Item = usize>) -> Self {
        let mut table = Vec::new();
        for position in positions {
            let angles = frequencies.iter().map(|frequency| position as f32 * frequency);
            table.extend(angles.clone().map(f32::cos));
            table.extend(angles.map(f32::sin));
        }
        Self { half: frequencies.len(), table }
    }
}

/// Turns the heads that each row of `x` begins with, as many as fit into `width`. A pair is an element of the first
/// half of a head and the corresponding one of the second.
pub fn rotate(angles: &Angles, x: &mut [f32], stride: usize, width: usize) {
    let half = angles.half;
    for (row, angles) in x.chunks_mut(stride).zip(angles.table.chunks(2 * half)) {
        let (cosines, sines) = angles.split_at(half);
        for head in row[..width].chunks_exact_mut(2 * half) {
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cosines.iter().zip(sines)) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// `out` = gelu(gate) · up, where each row of `x` is the gates and then the ups.
pub fn geglu(level: Level, x: &[f32], width: usize, out: &mut [f32]) {
    rows(out, width, x, 2 * width, |out, x| {
        let (gate, up) = x.split_at(width);
        level.run(Geglu { gate, up, out });
    });
}

struct Geglu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Geglu<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (outs, rest) = self.out.as_chunks_mut::<LANES>();
        let (gates, gate_rest) = self.gate.as_chunks::<LANES>();
        let (ups, up_rest) = self.up.as_chunks::<LANES>();
        for ((out, gate), up) in outs.iter_mut().zip(gates).zip(ups) {
            simd.store(simd.mul(gelu(simd, simd.load(gate)), simd.load(up)), out);
        }
        let (mut gate, mut up) = ([0.0; LANES], [0.0; LANES]);
        gate[..rest.len()].copy_from_slice(gate_rest);
        up[..rest.len()].copy_from_slice(up_rest);
        let mut last = [0.0; LANES];
        simd.store(simd.mul(gelu(simd, simd.load(&gate)), simd.load(&up)), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// The tanh approximation: x/2 · (1 + tanh u) = x / (1 + exp(-2u)), u = √(2/π) · (x + 0.044715 x³).
///
/// Factors below 1e-18 count as nothing, as they do where tanh is rounded to -1: what they leave of `x` would be
/// denormal, and each such number costs the product that follows a hundred cycles.
#[inline(always)]
fn gelu<S: Simd>(simd: S, x: S::V) -> S::V {
    let cubic = simd.fma(simd.mul(x, x), simd.splat(0.044_715), simd.splat(1.0));
    let exponent = simd.mul(simd.mul(x, cubic), simd.splat(-2.0 * SQRT_2_OVER_PI));
    let factor = simd.div(simd.splat(1.0), simd.add(simd.splat(1.0), exp(simd, exponent)));
    simd.mul(x, simd.max(simd.splat(0.0), simd.add(factor, simd.splat(-1e-18))))
}

/// e to each number, to about 1e-7 of it; what is below [`LEAST`] or above 88 counts as that. NaN stays NaN.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::V) -> S::V {
    let x = simd.min(simd.splat(88.0), simd.max(simd.splat(LEAST), x));
    let whole = simd.round(simd.mul(x, simd.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first so short that its multiples are exact.
    let rest = simd.fma(whole, simd.splat(-0.693_359_4), x);
    let rest = simd.fma(whole, simd.splat(2.121_944_4e-4), rest);
    let mut sum = simd.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        sum = simd.fma(sum, rest, simd.splat(coefficient));
    }
    let power = simd.fma(simd.mul(rest, rest), sum, simd.add(rest, simd.splat(1.0)));
    simd.mul(power, simd.exp2(whole))
}

/// Adds `other` to `x`.
pub fn add_assign(x: &mut [f32], other: &[f32]) {
    for (x, other) in x.iter_mut().zip(other) {
        *x += other;
    }
}
