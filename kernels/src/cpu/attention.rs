//! Causal attention of any tokens of any sequences over their blocks of keys and values, in one pass: the softmax is
//! corrected as larger scores appear.
//!
//! Each query goes through the blocks from the first token on, whatever else is computed with it, so a text gives
//! the same bits whether it is read at once or in pieces.

use rayon::prelude::*;

use super::Level;
use super::elementwise::{LEAST, exp};
use super::kv::KvPool;
use super::simd::{Kernel, LANES, Lane, Simd};
use crate::kv::{BLOCK_TOKENS, BlockId};

/// Heads that share a key and are worked on together.
const TOGETHER: usize = 4;
/// Multiplications below which other threads are not worth waking.
const SERIAL: usize = 1 << 16;

/// Keys that are multiplied together, where there are registers for so many sums.
const KEYS: usize = 4;
/// Lanes of values that are added together, where there are registers for so many sums.
const VALUES: usize = 4;

/// For each query and each token of a block a number.
type Weights<const N: usize> = [[Lane<f32>; BLOCK_TOKENS / LANES]; N];

/// The queries of some tokens.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    /// Heads of a token.
    pub count: usize,
    /// All queries, a row of `stride` numbers for each token, which begins with the heads.
    pub queries: &'a [f32],
    /// See `queries`.
    pub stride: usize,
}

/// Where a token stands: it sees what its sequence holds up to itself.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The blocks of its sequence.
    pub table: &'a [BlockId],
    /// The position of the token, counted from 0.
    pub position: usize,
}

/// Writes what the heads of the tokens at `places` see into `out`: for each token, its heads one after the other.
pub fn attention(
    level: Level,
    pool: &KvPool,
    layer: usize,
    heads: Heads<'_>,
    places: &[Place<'_>],
    out: &mut [f32],
) {
    let shape = pool.shape();
    let sharing = heads.count / shape.heads;
    let mut together = (1..=TOGETHER).rev().find(|n| sharing.is_multiple_of(*n)).unwrap_or(1);
    if places.len() * heads.count / together < rayon::current_num_threads() {
        together = 1;
    }
    let groups = heads.count / together;
    let task = |scratch: &mut Scratch, (index, out): (usize, &mut [f32])| {
        let (token, head) = (index / groups, index % groups * together);
        let queries = &heads.queries[token * heads.stride + head * shape.head_dim..];
        level.run(Group { pool, layer, head: head / sharing, queries, place: places[token], out, scratch });
    };
    let scratch = || Scratch::new(together, shape.lanes());
    let chunk = together * shape.head_dim;
    let seen: usize = places.iter().map(|place| place.position + 1).sum();
    if seen * heads.count * shape.head_dim < SERIAL {
        let mut scratch = scratch();
        out.chunks_mut(chunk).enumerate().for_each(|item| task(&mut scratch, item));
    } else {
        out.par_chunks_mut(chunk).enumerate().for_each_init(scratch, task);
    }
}

/// What a group of heads needs beside its inputs.
struct Scratch {
    queries: Vec<Lane<f32>>,
    /// The weighted sum of values so far.
    sums: Vec<Lane<f32>>,
}

impl Scratch {
    fn new(together: usize, lanes: usize) -> Self {
        Self { queries: vec![[0.0; LANES]; together * lanes], sums: vec![[0.0; LANES]; together * lanes] }
    }
}

/// Some heads of one token that share their keys.
struct Group<'a> {
    pool: &'a KvPool,
    layer: usize,
    /// Of the keys.
    head: usize,
    queries: &'a [f32],
    place: Place<'a>,
    out: &'a mut [f32],
    scratch: &'a mut Scratch,
}

impl Kernel for Group<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.out.len() / self.pool.shape().head_dim {
            4 => self.attend::<S, 4>(simd),
            3 => self.attend::<S, 3>(simd),
            2 => self.attend::<S, 2>(simd),
            _ => self.attend::<S, 1>(simd),
        }
    }
}

impl Group<'_> {
    #[inline(always)]
    fn attend<S: Simd, const N: usize>(self, simd: S) {
        let (lanes, head_dim) = (self.pool.shape().lanes(), self.pool.shape().head_dim);
        let scale = (head_dim as f32).sqrt().recip();
        let Scratch { queries, sums } = self.scratch;
        for (to, from) in queries.chunks_mut(lanes).zip(self.queries.chunks(head_dim)) {
            for (to, from) in to.as_flattened_mut().iter_mut().zip(from) {
                *to = from * scale;
            }
        }
        sums.fill([0.0; LANES]);
        let (mut largest, mut total) = ([f32::NEG_INFINITY; N], [0.0; N]);
        let seen = self.place.position + 1;
        for (number, &block) in self.place.table.iter().take(seen.div_ceil(BLOCK_TOKENS)).enumerate() {
            let tokens = BLOCK_TOKENS.min(seen - number * BLOCK_TOKENS);
            let [keys, values] = self.pool.block(self.layer, self.head, block);
            let next = self.place.table[..seen.div_ceil(BLOCK_TOKENS)].get(number + 1);
            let next = next.map_or([&[][..]; 2], |&next| self.pool.block(self.layer, self.head, next));
            let mut weights = scores::<S, N>(simd, queries, &keys[..tokens * lanes], next, lanes);
            let mut corrections = [0.0; N];
            for n in 0..N {
                let before = largest[n];
                for &score in &weights[n].as_flattened()[..tokens] {
                    largest[n] = if score > largest[n] || score.is_nan() { score } else { largest[n] };
                }
                corrections[n] =
                    if before == largest[n] { 1.0 } else { (before - largest[n]).max(LEAST).exp() };
                for lane in &mut weights[n] {
                    let shifted = simd.add(simd.load(lane), simd.splat(-largest[n]));
                    simd.store(exp(simd, shifted), lane);
                }
                // What lies behind the last token weighs nothing.
                weights[n].as_flattened_mut()[tokens..].fill(0.0);
                let sum = simd.add(simd.load(&weights[n][0]), simd.load(&weights[n][1]));
                total[n] = total[n] * corrections[n] + simd.sum(sum);
            }
            let weighted =
                Weighted { values: &values[..tokens * lanes], lanes, weights: &weights, corrections };
            weighted.add(simd, sums);
        }
        for ((out, sums), total) in self.out.chunks_mut(head_dim).zip(sums.chunks(lanes)).zip(total) {
            for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out = sum / total;
            }
        }
    }
}

/// The products of each query with each key. Meanwhile the keys and values of the next block are called for: they lie
/// elsewhere, where the machine does not look ahead by itself.
#[inline(always)]
fn scores<S: Simd, const N: usize>(
    simd: S,
    queries: &[Lane<f32>],
    keys: &[Lane<f32>],
    next: [&[Lane<f32>]; 2],
    lanes: usize,
) -> Weights<N> {
    let queries: [&[Lane<f32>]; N] = std::array::from_fn(|n| &queries[n * lanes..][..lanes]);
    let mut scores = [[[0.0; LANES]; BLOCK_TOKENS / LANES]; N];
    let tokens = keys.len() / lanes;
    let mut token = 0;
    // A sum has to wait for the one before it: several at a time keep the machine busy.
    if S::WIDE {
        while token + KEYS <= tokens {
            for lane in token * lanes..(token + KEYS) * lanes {
                next.iter().filter_map(|next| next.get(lane)).for_each(|lane| simd.prefetch(lane));
            }
            some_scores::<S, N, KEYS>(simd, queries, &keys[token * lanes..], token, &mut scores);
            token += KEYS;
        }
    }
    while token < tokens {
        some_scores::<S, N, 1>(simd, queries, &keys[token * lanes..], token, &mut scores);
        token += 1;
    }
    scores
}

/// The products of each query with the first `T` keys, whose tokens begin at `token`.
#[inline(always)]
fn some_scores<S: Simd, const N: usize, const T: usize>(
    simd: S,
    queries: [&[Lane<f32>]; N],
    keys: &[Lane<f32>],
    token: usize,
    scores: &mut Weights<N>,
) {
    let lanes = queries.first().map_or(0, |query| query.len());
    let keys: [&[Lane<f32>]; T] = std::array::from_fn(|t| &keys[t * lanes..][..lanes]);
    let mut sums = [[simd.splat(0.0); N]; T];
    for lane in 0..lanes {
        for (key, sums) in keys.iter().zip(&mut sums) {
            let key = simd.load(&key[lane]);
            for (query, sum) in queries.iter().zip(sums) {
                *sum = simd.fma(simd.load(&query[lane]), key, *sum);
            }
        }
    }
    for (token, sums) in (token..).zip(sums) {
        for (scores, sum) in scores.iter_mut().zip(sums) {
            scores[token / LANES][token % LANES] = simd.sum(sum);
        }
    }
}

/// The values of a block's tokens, and how much each query makes of them.
struct Weighted<'a, const N: usize> {
    values: &'a [Lane<f32>],
    lanes: usize,
    weights: &'a Weights<N>,
    /// What the sums so far are multiplied with.
    corrections: [f32; N],
}

impl<const N: usize> Weighted<'_, N> {
    /// Adds the values to the sums of each query.
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, sums: &mut [Lane<f32>]) {
        let mut lane = 0;
        // Values are read in the order in which they lie, as far as there are registers.
        if S::WIDE {
            while lane + VALUES <= self.lanes {
                self.add_lanes::<S, VALUES>(simd, lane, sums);
                lane += VALUES;
            }
        }
        while lane < self.lanes {
            self.add_lanes::<S, 1>(simd, lane, sums);
            lane += 1;
        }
    }

    #[inline(always)]
    fn add_lanes<S: Simd, const L: usize>(&self, simd: S, lane: usize, sums: &mut [Lane<f32>]) {
        let mut tile: [[S::V; L]; N] = std::array::from_fn(|n| {
            let correction = simd.splat(self.corrections[n]);
            std::array::from_fn(|l| simd.mul(simd.load(&sums[n * self.lanes + lane + l]), correction))
        });
        for (token, values) in self.values.chunks_exact(self.lanes).enumerate() {
            let values: [S::V; L] = std::array::from_fn(|l| simd.load(&values[lane + l]));
            for (weights, tile) in self.weights.iter().zip(&mut tile) {
                let weight = simd.splat(weights[token / LANES][token % LANES]);
                for (value, sum) in values.iter().zip(tile) {
                    *sum = simd.fma(weight, *value, *sum);
                }
            }
        }
        for (n, tile) in tile.iter().enumerate() {
            for (l, sum) in tile.iter().enumerate() {
                simd.store(*sum, &mut sums[n * self.lanes + lane + l]);
            }
        }
    }
}
