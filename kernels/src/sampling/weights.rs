//! Passes over all logits of a row, with the widest instruction set and the same result on all of them.

use super::ONE;
use crate::cpu::{Kernel, LANES, Lane, Level, Simd};

/// How many logits are looked at together: so few that the sums of half weights in one lane are exact.
pub(super) const BLOCK: usize = 256;
/// Half of the bits of [`ONE`], as a number: what a lane's sum is taken of.
const HALF: f32 = 1_048_576.0;
const _: () = assert!(HALF * HALF == ONE && BLOCK / LANES <= 16, "a lane's sum of halves is at most 2^24");

/// Fills `peaks` with the largest logit of each block; not a number if one of the block is not finite.
pub(super) fn find_peaks(level: Level, logits: &[f32], peaks: &mut Vec<f32>) {
    peaks.clear();
    level.run(Peaks { logits, peaks });
}

/// How logits become weights: shares of [`ONE`], the largest logit's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    pub(super) largest: f32,
    pub(super) inverse_temperature: f32,
    /// Logits below weigh nothing.
    pub(super) least: f32,
    /// What weighs less weighs nothing.
    pub(super) least_weight: f32,
}

/// What the tokens of a row weigh, in whole numbers.
#[derive(Default)]
pub(super) struct Weights {
    /// Of each token; of a block that weighs nothing, anything.
    pub(super) tokens: Vec<f32>,
    /// Of each block together.
    pub(super) blocks: Vec<u64>,
}

impl Weights {
    /// Weighs `logits`, whose blocks have these peaks.
    pub(super) fn weigh(&mut self, level: Level, logits: &[f32], peaks: &[f32], scale: Scale) {
        self.tokens.resize(logits.len(), 0.0);
        self.blocks.clear();
        level.run(Weigh { logits, peaks, scale, weights: self });
    }
}

struct Peaks<'a> {
    logits: &'a [f32],
    peaks: &'a mut Vec<f32>,
}

impl Kernel for Peaks<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for block in self.logits.chunks(BLOCK) {
            let mut found = [simd.splat(f32::NEG_INFINITY), simd.splat(0.0)];
            let (lanes, rest) = block.as_chunks();
            for lane in lanes {
                found = look(simd, lane, found);
            }
            if let Some(&first) = rest.first() {
                found = look(simd, &filled(rest, first), found);
            }
            let [largest, nothing] = found;
            let mut lane = [0.0; LANES];
            simd.store(simd.add(largest, nothing), &mut lane);
            let larger = |a: f32, b: f32| if a >= b || a.is_nan() { a } else { b };
            self.peaks.push(lane.into_iter().fold(f32::NEG_INFINITY, larger));
        }
    }
}

/// The larger of each logit and what was found before, and a sum of nothings that is no number if one is not finite.
#[inline(always)]
fn look<S: Simd>(simd: S, lane: &Lane<f32>, [largest, nothing]: [S::V; 2]) -> [S::V; 2] {
    let logits = simd.load(lane);
    [simd.max(logits, largest), simd.add(nothing, times(simd, logits, 0.0))]
}

struct Weigh<'a> {
    logits: &'a [f32],
    peaks: &'a [f32],
    scale: Scale,
    weights: &'a mut Weights,
}

impl Kernel for Weigh<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Weights { tokens, blocks } = self.weights;
        let all = self.logits.chunks(BLOCK).zip(tokens.chunks_mut(BLOCK)).zip(self.peaks);
        for ((logits, weights), &peak) in all {
            if peak < self.scale.least {
                blocks.push(0);
                continue;
            }
            let mut halves = [simd.splat(0.0); 2];
            let (lanes, rest) = logits.as_chunks();
            let (to, to_rest) = weights.as_chunks_mut();
            for (logits, weights) in lanes.iter().zip(to) {
                halves = weigh_lane(simd, logits, self.scale, halves, weights);
            }
            if !rest.is_empty() {
                let mut lane = [0.0; LANES];
                halves = weigh_lane(simd, &filled(rest, f32::NEG_INFINITY), self.scale, halves, &mut lane);
                to_rest.copy_from_slice(&lane[..rest.len()]);
            }
            let mut sums = [[0.0; LANES]; 2];
            simd.store(halves[0], &mut sums[0]);
            simd.store(halves[1], &mut sums[1]);
            let [high, low] = sums.map(|lane| lane.into_iter().map(|sum| sum as u64).sum::<u64>());
            blocks.push(high * HALF as u64 + low);
        }
    }
}

/// Weighs a lane of logits, and adds the weights, each in two halves, to `halves`.
#[inline(always)]
fn weigh_lane<S: Simd>(
    simd: S,
    logits: &Lane<f32>,
    scale: Scale,
    halves: [S::V; 2],
    weights: &mut Lane<f32>,
) -> [S::V; 2] {
    let weight = weigh(simd, simd.load(logits), scale);
    simd.store(weight, weights);
    let high = simd.floor(times(simd, weight, HALF.recip()));
    let low = simd.add(weight, times(simd, high, -HALF));
    [simd.add(halves[0], high), simd.add(halves[1], low)]
}

/// A lane that begins with `rest`, which is shorter.
#[inline(always)]
fn filled(rest: &[f32], filler: f32) -> Lane<f32> {
    let mut lane = [filler; LANES];
    lane[..rest.len()].copy_from_slice(rest);
    lane
}

/// exp((logit - largest) / temperature) · [`ONE`], rounded down. No operation is fused, or it would round otherwise than
/// the GPU does.
#[inline(always)]
fn weigh<S: Simd>(simd: S, logit: S::V, scale: Scale) -> S::V {
    let x = times(simd, plus(simd, logit, -scale.largest), scale.inverse_temperature);
    // Whatever is below weighs nothing, as this does.
    let x = simd.max(x, simd.splat(-28.0));
    let whole = simd.floor(plus(simd, times(simd, x, std::f32::consts::LOG2_E), 0.5));
    // ln 2 in two parts, the first so short that its multiples are exact.
    let rest = simd.add(x, times(simd, whole, -0.693_359_4));
    let rest = simd.add(rest, times(simd, whole, 2.121_944_4e-4));
    let mut sum = simd.splat(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        sum = plus(simd, simd.mul(sum, rest), coefficient);
    }
    let power = plus(simd, simd.add(simd.mul(simd.mul(sum, rest), rest), rest), 1.0);
    let weight = simd.floor(times(simd, simd.mul(power, simd.exp2(whole)), ONE));
    let weight = simd.at_least(weight, simd.splat(scale.least_weight), weight);
    simd.at_least(logit, simd.splat(scale.least), weight)
}

#[inline(always)]
fn times<S: Simd>(simd: S, a: S::V, b: f32) -> S::V {
    simd.mul(a, simd.splat(b))
}

#[inline(always)]
fn plus<S: Simd>(simd: S, a: S::V, b: f32) -> S::V {
    simd.add(a, simd.splat(b))
}
