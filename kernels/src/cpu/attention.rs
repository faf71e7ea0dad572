//! Causal attention of any tokens of any sequences over their blocks of keys and values, in one pass: the softmax is
//! corrected as larger scores appear.
//!
//! Up to four queries go through the keys and values of a KV head together, so that these are read once for all of them: heads of
//! one token that share it, and where a model has too few of those, tokens of a sequence that follow one another.
//!
//! Each query goes through the blocks from the first token on, whatever else is computed with it, so a text gives
//! the same bits whether it is read at once or in pieces.

use std::ops::Range;

use rayon::prelude::*;

use super::Level;
use super::elementwise::{LEAST, exp};
use super::kv::{Blocks, KvPool, KvShape, Stored, TypedBlocks};
use super::simd::{Kernel, LANES, Lane, Simd};
use crate::kv::{BLOCK_TOKENS, BlockId};

/// Queries that are worked on together.
const TOGETHER: usize = 4;
/// Multiplications below which other threads are not worth waking.
const SERIAL: usize = 1 << 16;

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
    match pool.blocks() {
        Blocks::F32(blocks) => Attention { level, shape, blocks, layer, heads, places }.run(out),
        Blocks::F16(blocks) => Attention { level, shape, blocks, layer, heads, places }.run(out),
    }
}

/// What all queries of a call have in common.
struct Attention<'a, T> {
    level: Level,
    shape: KvShape,
    blocks: &'a TypedBlocks<T>,
    layer: usize,
    heads: Heads<'a>,
    places: &'a [Place<'a>],
}

/// Queries that are worked on together, and where their results go.
struct Task<'a> {
    rows: Range<usize>,
    /// The first head, and how many of each row.
    head: usize,
    heads: usize,
    /// For each row the heads one after the other.
    outs: [Option<&'a mut [f32]>; TOGETHER],
}

impl<T: Stored> Attention<'_, T> {
    fn run(&self, out: &mut [f32]) {
        let shape = self.shape;
        let sharing = self.heads.count / shape.heads;
        let mut heads = (1..=TOGETHER).rev().find(|n| sharing.is_multiple_of(*n)).unwrap_or(1);
        let mut rows = TOGETHER / heads;
        if self.places.len() * self.heads.count / (heads * rows) < rayon::current_num_threads() {
            (heads, rows) = (1, 1);
        }
        let mut tasks = Vec::with_capacity(self.places.len() * self.heads.count / heads);
        let mut left = out;
        for rows in runs(self.places, rows) {
            let (outs, behind) = left.split_at_mut(rows.len() * self.heads.count * shape.head_dim);
            left = behind;
            let mut outs = outs.chunks_mut(self.heads.count * shape.head_dim);
            let mut outs: [_; TOGETHER] =
                std::array::from_fn(|_| outs.next().map(|row| row.chunks_mut(heads * shape.head_dim)));
            for head in (0..self.heads.count).step_by(heads) {
                let outs = outs.each_mut().map(|row| row.as_mut().and_then(Iterator::next));
                tasks.push(Task { rows: rows.clone(), head, heads, outs });
            }
        }
        let scratch = || Scratch::new(shape.lanes());
        let task = |scratch: &mut Scratch, task| self.level.run(Group { all: self, task, scratch });
        let seen: usize = self.places.iter().map(|place| place.position + 1).sum();
        if seen * self.heads.count * shape.head_dim < SERIAL {
            let mut scratch = scratch();
            tasks.into_iter().for_each(|item| task(&mut scratch, item));
        } else {
            tasks.into_par_iter().for_each_init(scratch, task);
        }
    }
}

/// The rows of `places` in runs of at most `most` tokens of one sequence that follow one another.
fn runs<'a>(places: &'a [Place<'a>], most: usize) -> impl Iterator<Item = Range<usize>> + 'a {
    let follows = |before: &Place<'_>, place: &Place<'_>| {
        std::ptr::eq(before.table, place.table) && before.position + 1 == place.position
    };
    places
        .chunk_by(follows)
        .scan(0, move |end, run| {
            let start = *end;
            *end += run.len();
            Some((start..*end).step_by(most).map(move |first| first..(first + most).min(start + run.len())))
        })
        .flatten()
}

/// What a group of queries needs beside its inputs.
struct Scratch {
    queries: Vec<Lane<f32>>,
    /// The weighted sum of values so far.
    sums: Vec<Lane<f32>>,
}

impl Scratch {
    fn new(lanes: usize) -> Self {
        Self { queries: vec![[0.0; LANES]; TOGETHER * lanes], sums: vec![[0.0; LANES]; TOGETHER * lanes] }
    }
}

/// A task on an instruction set.
struct Group<'a, T> {
    all: &'a Attention<'a, T>,
    task: Task<'a>,
    scratch: &'a mut Scratch,
}

impl<T: Stored> Kernel for Group<'_, T> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.task.rows.len() * self.task.heads {
            4 => self.attend::<S, 4>(simd),
            3 => self.attend::<S, 3>(simd),
            2 => self.attend::<S, 2>(simd),
            _ => self.attend::<S, 1>(simd),
        }
    }
}

impl<T: Stored> Group<'_, T> {
    #[inline(always)]
    fn attend<S: Simd, const N: usize>(self, simd: S) {
        let Self { all: &Attention { shape, blocks, layer, heads, places, .. }, task, scratch } = self;
        let (lanes, head_dim) = (shape.lanes(), shape.head_dim);
        let places = &places[task.rows.clone()];
        let kv_head = task.head / (heads.count / shape.heads);
        let scale = (head_dim as f32).sqrt().recip();
        let [queries, sums] = [&mut scratch.queries, &mut scratch.sums].map(|all| &mut all[..N * lanes]);
        for (n, to) in queries.chunks_mut(lanes).enumerate() {
            let (row, head) = (task.rows.start + n / task.heads, task.head + n % task.heads);
            let from = &heads.queries[row * heads.stride + head * head_dim..][..head_dim];
            for (to, from) in to.as_flattened_mut().iter_mut().zip(from) {
                *to = from * scale;
            }
        }
        sums.fill([0.0; LANES]);
        let (mut largest, mut total) = ([f32::NEG_INFINITY; N], [0.0; N]);
        // What each query sees: the last row of a run sees the most.
        let seen: [usize; N] = std::array::from_fn(|n| places[n / task.heads].position + 1);
        let most = seen[N - 1];
        let table = &places[0].table[..most.div_ceil(BLOCK_TOKENS)];
        for (number, &block) in table.iter().enumerate() {
            let before = number * BLOCK_TOKENS;
            let tokens = BLOCK_TOKENS.min(most - before);
            let [keys, values] = blocks.block(layer, kv_head, block);
            let next = table.get(number + 1).map_or([&[][..]; 2], |&next| blocks.block(layer, kv_head, next));
            let mut weights = scores::<S, T, N>(simd, queries, &keys[..tokens * lanes], next, lanes);
            let mut corrections = [0.0; N];
            for n in 0..N {
                let tokens = BLOCK_TOKENS.min(seen[n].saturating_sub(before));
                let largest_before = largest[n];
                for &score in &weights[n].as_flattened()[..tokens] {
                    largest[n] = if score > largest[n] || score.is_nan() { score } else { largest[n] };
                }
                corrections[n] = if largest_before == largest[n] {
                    1.0
                } else {
                    (largest_before - largest[n]).max(LEAST).exp()
                };
                for lane in &mut weights[n] {
                    let shifted = simd.add(simd.load(lane), simd.splat(-largest[n]));
                    simd.store(exp(simd, shifted), lane);
                }
                // What lies behind the last token that this query sees weighs nothing.
                weights[n].as_flattened_mut()[tokens..].fill(0.0);
                let sum = weights[n].iter().fold(simd.splat(0.0), |sum, lane| simd.add(sum, simd.load(lane)));
                total[n] = total[n] * corrections[n] + simd.sum(sum);
            }
            let weighted =
                Weighted { values: &values[..tokens * lanes], lanes, weights: &weights, corrections };
            weighted.add(simd, sums);
        }
        let outs = task.outs.into_iter().flatten().flat_map(|row| row.chunks_mut(head_dim));
        for ((out, sums), total) in outs.zip(sums.chunks(lanes)).zip(total) {
            for (out, sum) in out.iter_mut().zip(sums.as_flattened()) {
                *out = sum / total;
            }
        }
    }
}

/// The products of each query with each key. Meanwhile the keys and values of the next block are called for: they lie
/// elsewhere, where the machine does not look ahead by itself.
#[inline(always)]
fn scores<S: Simd, T: Stored, const N: usize>(
    simd: S,
    queries: &[Lane<f32>],
    keys: &[Lane<T>],
    next: [&[Lane<T>]; 2],
    lanes: usize,
) -> Weights<N> {
    let queries: [&[Lane<f32>]; N] = std::array::from_fn(|n| &queries[n * lanes..][..lanes]);
    let mut scores = [[[0.0; LANES]; BLOCK_TOKENS / LANES]; N];
    let tokens = keys.len() / lanes;
    let mut token = 0;
    // A sum has to wait for the one before it: several at a time keep the machine busy, as far as there are registers.
    if S::WIDE || N == 1 {
        while token + 4 <= tokens {
            prefetch(simd, next, token * lanes..(token + 4) * lanes);
            some_scores::<S, T, N, 4>(simd, queries, &keys[token * lanes..], token, &mut scores);
            token += 4;
        }
    }
    if N == 2 {
        while token + 2 <= tokens {
            prefetch(simd, next, token * lanes..(token + 2) * lanes);
            some_scores::<S, T, N, 2>(simd, queries, &keys[token * lanes..], token, &mut scores);
            token += 2;
        }
    }
    while token < tokens {
        prefetch(simd, next, token * lanes..(token + 1) * lanes);
        some_scores::<S, T, N, 1>(simd, queries, &keys[token * lanes..], token, &mut scores);
        token += 1;
    }
    scores
}

/// Calls `lanes` of both slices into the second cache, a cache line at a time.
#[inline(always)]
fn prefetch<S: Simd, T>(simd: S, from: [&[Lane<T>]; 2], lanes: Range<usize>) {
    for lane in lanes.step_by((64 / size_of::<Lane<T>>()).max(1)) {
        from.iter().filter_map(|from| from.get(lane)).for_each(|lane| simd.prefetch(lane));
    }
}

/// The products of each query with the first `K` keys, whose tokens begin at `token`.
#[inline(always)]
fn some_scores<S: Simd, T: Stored, const N: usize, const K: usize>(
    simd: S,
    queries: [&[Lane<f32>]; N],
    keys: &[Lane<T>],
    token: usize,
    scores: &mut Weights<N>,
) {
    let lanes = queries.first().map_or(0, |query| query.len());
    let keys: [&[Lane<T>]; K] = std::array::from_fn(|k| &keys[k * lanes..][..lanes]);
    let mut sums = [[simd.splat(0.0); N]; K];
    for lane in 0..lanes {
        for (key, sums) in keys.iter().zip(&mut sums) {
            let key = T::load(simd, &key[lane]);
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
struct Weighted<'a, T, const N: usize> {
    values: &'a [Lane<T>],
    lanes: usize,
    weights: &'a Weights<N>,
    /// What the sums so far are multiplied with.
    corrections: [f32; N],
}

impl<T: Stored, const N: usize> Weighted<'_, T, N> {
    /// Adds the values to the sums of each query.
    #[inline(always)]
    fn add<S: Simd>(&self, simd: S, sums: &mut [Lane<f32>]) {
        let mut lane = 0;
        // Values are read in the order in which they lie, as far as there are registers.
        if S::WIDE || N == 1 {
            while lane + VALUES <= self.lanes {
                self.add_lanes::<S, VALUES>(simd, lane, sums);
                lane += VALUES;
            }
        }
        if N == 2 {
            while lane + VALUES / 2 <= self.lanes {
                self.add_lanes::<S, { VALUES / 2 }>(simd, lane, sums);
                lane += VALUES / 2;
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
            let values: [S::V; L] = std::array::from_fn(|l| T::load(simd, &values[lane + l]));
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
