//! Causal attention of any tokens of any sequences over their blocks of keys and values, in one pass: the softmax is
//! corrected as larger scores appear.
//!
//! Each query goes through the blocks from the first token on, whatever else is computed with it, so a text gives
//! the same bits whether it is read at once or in pieces.
//!
//! Must not touch: what the tokens are.

use rayon::prelude::*;

use super::Level;
use super::elementwise::{LEAST, exp};
use super::kv::{BLOCK_TOKENS, BlockId, KvPool};
use super::simd::{Kernel, LANES, Lane, Simd};

/// Heads that share a key and are worked on together.
const TOGETHER: usize = 4;
/// Multiplications below which other threads are not worth waking.
const SERIAL: usize = 1 << 16;

/// The queries of some tokens.
#[derive(Clone, Copy)]
pub(crate) struct Heads<'a> {
    /// Heads of a token.
    pub(crate) count: usize,
    /// All queries, a row of `stride` numbers for each token, which begins with the heads.
    pub(crate) queries: &'a [f32],
    /// See `queries`.
    pub(crate) stride: usize,
}

/// Where a token stands: it sees what its sequence holds up to itself.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// The blocks of its sequence.
    pub(crate) table: &'a [BlockId],
    pub(crate) position: usize,
}

/// Writes what the heads of the tokens at `places` see into `out`: for each token, its heads one after the other.
pub(crate) fn attention(
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
            let mut weights = scores::<S, N>(simd, queries, &keys[..tokens * lanes], lanes);
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
            for lane in 0..lanes {
                let mut tile: [S::V; N] = std::array::from_fn(|n| {
                    simd.mul(simd.load(&sums[n * lanes + lane]), simd.splat(corrections[n]))
                });
                for (token, value) in values.chunks_exact(lanes).take(tokens).enumerate() {
                    let value = simd.load(&value[lane]);
                    for (weights, tile) in weights.iter().zip(&mut tile) {
                        let weight = simd.splat(weights[token / LANES][token % LANES]);
                        *tile = simd.fma(weight, value, *tile);
                    }
                }
                for (n, tile) in tile.iter().enumerate() {
                    simd.store(*tile, &mut sums[n * lanes + lane]);
                }
            }
        }
        for ((out, sums), total) in self.out.chunks_mut(head_dim).zip(sums.chunks(lanes)).zip(total) {
            for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out = sum / total;
            }
        }
    }
}

/// The products of each query with each key.
#[inline(always)]
fn scores<S: Simd, const N: usize>(
    simd: S,
    queries: &[Lane<f32>],
    keys: &[Lane<f32>],
    lanes: usize,
) -> [[Lane<f32>; BLOCK_TOKENS / LANES]; N] {
    let queries: [&[Lane<f32>]; N] = std::array::from_fn(|n| &queries[n * lanes..][..lanes]);
    let mut scores = [[[0.0; LANES]; BLOCK_TOKENS / LANES]; N];
    for (token, key) in keys.chunks_exact(lanes).enumerate() {
        let mut sums = [simd.splat(0.0); N];
        for (lane, key) in key.iter().enumerate() {
            let key = simd.load(key);
            for (query, sum) in queries.iter().zip(&mut sums) {
                *sum = simd.fma(simd.load(&query[lane]), key, *sum);
            }
        }
        for (scores, sum) in scores.iter_mut().zip(sums) {
            scores[token / LANES][token % LANES] = simd.sum(sum);
        }
    }
    scores
}
