//! Samples a token from logits, with bitwise the same result on all CPUs and GPUs.
//!
//! `cuda/sample.cu` does the same steps on a GPU: for the same logits and seed it samples the same token. So nothing may
//! depend on the order of additions or on a library's exponential: probabilities are integers, 2^40 for the most likely
//! token, made by f32 operations that are rounded alike everywhere, and their sums are exact. Random numbers come from a
//! counter-based generator: they depend on the seed and the position, not on earlier draws.

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
mod weights;

use self::weights::{BLOCK, Scale, Weights, find_peaks};
use super::cpu::Level;

/// Below this temperature every probability but one rounds to nothing, and dividing by it overflows.
const MIN_TEMPERATURE: f32 = 1e-5;
/// The weight of the most likely token.
const ONE: f32 = 1_099_511_627_776.0;

/// Sampling parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 is greedy: the most likely token, the first of several.
    pub temperature: f32,
    /// Keeps only the `top_k` most likely tokens, and those as likely as the last of them; 0 keeps all.
    pub top_k: u32,
    /// Of those, keeps only the most likely that together have this probability; 1 keeps all.
    pub top_p: f32,
    /// Of those, keeps only tokens of at least this probability relative to the most likely one; 0 keeps all.
    pub min_p: f32,
}

impl SamplingParams {
    /// Greedy sampling.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
}

/// How one row of logits is sampled: [`SamplingParams`] and a seed, in the form that the kernels read.
#[derive(Clone, Copy, Debug)]
pub struct RowSampler {
    /// 0 is greedy.
    inverse_temperature: f32,
    top_k: u32,
    /// A fraction of 2^64; all ones for all.
    top_p: u64,
    least_weight: u64,
    seed: u64,
}

impl RowSampler {
    /// Sampling by `params`, with random numbers from `seed`.
    pub fn new(params: &SamplingParams, seed: u64) -> Self {
        let SamplingParams { temperature, top_k, top_p, min_p } = *params;
        let inverse_temperature = if temperature >= MIN_TEMPERATURE { temperature.recip() } else { 0.0 };
        // Casts of floats saturate, and make 0 of what is not a number.
        let min_p = if min_p.is_nan() { 0.0 } else { min_p.min(1.0) };
        let fraction = (f64::from(top_p) * 2f64.powi(64)) as u64;
        Self {
            inverse_temperature,
            top_k,
            top_p: if top_p.is_nan() { u64::MAX } else { fraction },
            least_weight: (f64::from(min_p) * f64::from(ONE)).ceil() as u64,
            seed,
        }
    }

    /// The words that the CUDA kernel reads.
    pub fn words(self) -> [u32; 8] {
        let wide = |number: u64| [number as u32, (number >> 32) as u32];
        let [[a, b], [c, d], [e, f]] = [self.top_p, self.least_weight, self.seed].map(wide);
        [self.inverse_temperature.to_bits(), self.top_k, a, b, c, d, e, f]
    }
}

/// Memory that is reused from one row to the next.
pub struct Scratch {
    level: Level,
    peaks: Vec<f32>,
    weights: Weights,
    some: Vec<f32>,
    tokens: Vec<Token>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            level: Level::best(),
            peaks: Vec::new(),
            weights: Weights::default(),
            some: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

/// A token's logit and what it weighs.
type Token = (f32, f32);

/// [`sample_row`] with memory of its own.
pub fn sample(logits: &[f32], params: &SamplingParams, seed: u64, counter: u64) -> Option<u32> {
    sample_row(logits, &RowSampler::new(params, seed), counter, &mut Scratch::default())
}

/// Samples a token; none if the logits are not all finite. `counter` is the position of the token before it: each position
/// has a random number of its own.
pub fn sample_row(logits: &[f32], sampler: &RowSampler, counter: u64, scratch: &mut Scratch) -> Option<u32> {
    let best = argmax(logits, scratch)?;
    if sampler.inverse_temperature == 0.0 {
        return Some(best);
    }
    let Scratch { level, peaks, weights, some, tokens } = scratch;
    let mut scale = Scale {
        largest: *logits.get(best as usize)?,
        inverse_temperature: sampler.inverse_temperature,
        least: f32::NEG_INFINITY,
        least_weight: 0.0,
    };
    if let Some(rank) = (sampler.top_k as usize).checked_sub(1).filter(|&rank| rank < logits.len()) {
        scale.least = ranked(logits, peaks, rank, some);
    }
    if sampler.top_p != u64::MAX {
        weights.weigh(*level, logits, peaks, scale);
        let target = share(weights.blocks.iter().sum(), sampler.top_p).max(1);
        // Mostly a few tokens have nearly all of the weight.
        let bound = nth(peaks.len() / 16, peaks, some);
        gather(logits, peaks, weights, bound, tokens);
        if total(tokens) < target {
            gather(logits, peaks, weights, scale.least, tokens);
        }
        scale.least = nucleus(tokens, target);
    }
    scale.least_weight = not_below(sampler.least_weight);
    weights.weigh(*level, logits, peaks, scale);
    let mut rest = share(philox(sampler.seed, counter), weights.blocks.iter().sum());
    // What is drawn is less than the total, and the most likely token is never left out: there is a block, and a token.
    let start = BLOCK * find(weights.blocks.iter().copied(), &mut rest)?;
    let tokens = weights.tokens.get(start..)?.iter();
    find(tokens.map(|&weight| weight as u64), &mut rest).map(|place| (start + place) as u32)
}

/// The token of the largest logit, the first of several; none if one of them is not a finite number.
pub fn argmax(logits: &[f32], scratch: &mut Scratch) -> Option<u32> {
    find_peaks(scratch.level, logits, &mut scratch.peaks);
    let (mut block, mut largest) = (0, f32::NEG_INFINITY);
    for (number, &peak) in scratch.peaks.iter().enumerate() {
        if !peak.is_finite() {
            return None;
        }
        if peak > largest {
            (block, largest) = (number, peak);
        }
    }
    let start = BLOCK * block;
    let place = logits.get(start..)?.iter().position(|&logit| logit == largest)?;
    Some((start + place) as u32)
}

/// The logit that has this rank by size; 0 is the largest.
fn ranked(logits: &[f32], peaks: &[f32], rank: usize, some: &mut Vec<f32>) -> f32 {
    if rank >= peaks.len() {
        return nth(rank, logits, some);
    }
    // More than `rank` peaks, and so logits, are at least this one: what is below is of no interest.
    let bound = nth(rank, peaks, some);
    some.clear();
    for (block, _) in logits.chunks(BLOCK).zip(peaks).filter(|(_, peak)| **peak >= bound) {
        some.extend(block.iter().filter(|&&logit| logit >= bound));
    }
    *some.select_nth_unstable_by(rank, |a, b| b.total_cmp(a)).1
}

/// The number among `all` that has this rank by size.
fn nth(rank: usize, all: &[f32], some: &mut Vec<f32>) -> f32 {
    some.clear();
    some.extend(all);
    *some.select_nth_unstable_by(rank, |a, b| b.total_cmp(a)).1
}

/// Fills `tokens` with those whose logit is at least `least`, as far as they were weighed.
fn gather(logits: &[f32], peaks: &[f32], weights: &Weights, least: f32, tokens: &mut Vec<Token>) {
    tokens.clear();
    let blocks = logits.chunks(BLOCK).zip(weights.tokens.chunks(BLOCK));
    for ((logits, weights), (&peak, &weight)) in blocks.zip(peaks.iter().zip(&weights.blocks)) {
        if peak < least || weight == 0 {
            continue;
        }
        // Whether a logit is among them can be a coin's toss: nothing branches on it.
        let (mut places, mut count) = ([0; BLOCK], 0);
        for (place, &logit) in logits.iter().enumerate() {
            places[count] = place;
            count += usize::from(logit >= least);
        }
        tokens.extend(places[..count].iter().map(|&place| (logits[place], weights[place])));
    }
}

/// The logit such that what is at least that large weighs `target`, and what is larger does not.
fn nucleus(mut tokens: &mut [Token], mut target: u64) -> f32 {
    while tokens.len() > 1 {
        let middle = tokens.len() / 2;
        tokens.select_nth_unstable_by(middle, |a, b| b.0.total_cmp(&a.0));
        let (larger, others) = tokens.split_at_mut(middle);
        let weight = total(larger);
        if weight >= target {
            tokens = larger;
        } else {
            target -= weight;
            tokens = others;
        }
    }
    tokens.first().map_or(f32::NEG_INFINITY, |token| token.0)
}

fn total(tokens: &[Token]) -> u64 {
    tokens.iter().map(|token| token.1 as u64).sum()
}

/// Which of `weights` exceeds `rest` with those before it, which are taken from `rest`.
fn find(mut weights: impl Iterator<Item = u64>, rest: &mut u64) -> Option<usize> {
    weights.position(|weight| {
        let found = weight > *rest;
        if !found {
            *rest -= weight;
        }
        found
    })
}

/// The smallest f32 that is not less.
fn not_below(weight: u64) -> f32 {
    let near = weight as f32;
    if (near as u64) < weight { near.next_up() } else { near }
}

/// `whole` · `fraction` / 2^64
fn share(whole: u64, fraction: u64) -> u64 {
    ((u128::from(whole) * u128::from(fraction)) >> 64) as u64
}

/// The Philox 4x32-10 generator (Salmon et al., 2011): 64 bits for each key and counter.
fn philox(key: u64, counter: u64) -> u64 {
    let wide = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    let (mut key0, mut key1) = (key as u32, (key >> 32) as u32);
    let mut words = [counter as u32, (counter >> 32) as u32, 0, 0];
    for _ in 0..10 {
        let (high0, low0) = wide(0xD251_1F53, words[0]);
        let (high1, low1) = wide(0xCD9E_8D57, words[2]);
        words = [high1 ^ words[1] ^ key0, low1, high0 ^ words[3] ^ key1, low0];
        key0 = key0.wrapping_add(0x9E37_79B9);
        key1 = key1.wrapping_add(0xBB67_AE85);
    }
    u64::from(words[1]) << 32 | u64::from(words[0])
}
