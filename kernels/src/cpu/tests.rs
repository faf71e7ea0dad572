//! Every kernel, on every instruction set of this machine, against a plain implementation in f64.

use proptest::prelude::*;

use super::simd::{Kernel, LANES, Lane, Simd};
use super::*;
use crate::kv::{BLOCK_TOKENS, BlockId};

/// Numbers between -1 and 1.
pub(super) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64)
        .map(|index| {
            let mixed =
                (seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// `numbers` as a KV cache of this type keeps them.
fn stored(kv_type: KvType, numbers: Vec<f32>) -> Vec<f32> {
    match kv_type {
        KvType::F32 => numbers,
        KvType::F16 => numbers.into_iter().map(|number| half::f16::from_f32(number).to_f32()).collect(),
    }
}

pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

pub(super) fn close(
    a: &[f32],
    b: impl IntoIterator<Item = f64>,
    tolerance: f64,
) -> Result<(), TestCaseError> {
    for (index, (&a, b)) in a.iter().zip(b).enumerate() {
        prop_assert!((f64::from(a) - b).abs() <= tolerance * b.abs().max(1.0), "{index}: {a} instead of {b}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn attention_is_that_of_the_textbook(
        heads in 1usize..7, sharing in 1usize..9, head_dim in 1usize..70, before in 0usize..100,
        tokens in 1usize..10, kv_type in prop_oneof![Just(KvType::F32), Just(KvType::F16)], seed: u64,
    ) {
        let shape = KvShape { layers: 2, heads, head_dim, kv_type };
        let (width, count) = (heads * head_dim, heads * sharing);
        let length = before + tokens;
        let [keys, values] = [seed, !seed].map(|seed| stored(kv_type, numbers(seed, length * width)));
        let mut pool = KvPool::new(shape, length.div_ceil(BLOCK_TOKENS) + 1);
        // The last block first, and one that no sequence has.
        let table: Vec<_> = (1..pool.block_count() as u32).rev().map(BlockId).collect();
        for (position, (key, value)) in keys.chunks(width).zip(values.chunks(width)).enumerate() {
            pool.write(0, &table, position, value, key);
            pool.write(1, &table, position, key, value);
        }
        let places: Vec<_> =
            (before..length).map(|position| Place { table: &table, position }).collect();
        let stride = count * head_dim + 3;
        let queries: Vec<f32> = numbers(seed ^ 1, tokens * stride).iter().map(|value| 4.0 * value).collect();
        for level in Level::available() {
            let mut out = vec![f32::NAN; tokens * count * head_dim];
            attention(level, &pool, 1, Heads { count, queries: &queries, stride }, &places, &mut out);
            for (index, out) in out.chunks(head_dim).enumerate() {
                let (token, head) = (index / count, index % count);
                let query = &queries[token * stride + head * head_dim..][..head_dim];
                let of = |all: &'_ [f32], position: usize| {
                    all[position * width + head / sharing * head_dim..][..head_dim].to_vec()
                };
                let weights: Vec<f64> = (0..=before + token)
                    .map(|position| (dot(query, &of(&keys, position)) / (head_dim as f64).sqrt()).exp())
                    .collect();
                let total: f64 = weights.iter().sum();
                let mut expected = vec![0.0; head_dim];
                for (position, weight) in weights.iter().enumerate() {
                    for (sum, value) in expected.iter_mut().zip(of(&values, position)) {
                        *sum += weight / total * f64::from(value);
                    }
                }
                close(out, expected, 1e-5)?;
            }
        }
    }

    #[test]
    fn what_happens_to_each_row_is_as_in_the_textbook(width in 1usize..100, rows in 1usize..4, seed: u64) {
        let x: Vec<f32> = numbers(seed, 2 * rows * width).iter().map(|value| 8.0 * value).collect();
        let scale = numbers(!seed, width);
        for level in Level::available() {
            let mut out = vec![f32::NAN; rows * width];
            geglu(level, &x, width, &mut out);
            for (x, out) in x.chunks(2 * width).zip(out.chunks(width)) {
                let gelu = |x: f64| {
                    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                    0.5 * x * (1.0 + u.tanh())
                };
                let (gate, up) = x.split_at(width);
                close(out, gate.iter().zip(up).map(|(&gate, &up)| gelu(f64::from(gate)) * f64::from(up)), 2e-6)?;
            }
            rms_norm(level, &x[..rows * width], &scale, 1e-6, &mut out);
            for (x, out) in x.chunks(width).zip(out.chunks(width)) {
                let root = (dot(x, x) / width as f64 + 1e-6).sqrt();
                close(out, x.iter().zip(&scale).map(|(&x, &scale)| f64::from(x) / root * f64::from(scale)), 2e-6)?;
            }
        }
    }
}

#[test]
fn numbers_are_rounded_to_f16_as_ieee_754_says() {
    struct Round<'a>(&'a Lane<f32>, &'a mut Lane<u16>);
    impl Kernel for Round<'_> {
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            *self.1 = simd.to_f16(simd.load(self.0));
        }
    }
    // Ties, what is denormal as f16 or nothing at all, and what is too large.
    let special = [0.0, -0.0, 1.0, 2049.0, 2051.0, 65_504.0, 65_519.9, 65_520.0, 1e9, f32::INFINITY];
    let small = [6e-8, 2.9e-8, 2.98e-8, 3.1e-5, 6.103e-5, -1e-7];
    let all = [special.as_slice(), &small, &numbers(5, 16 * LANES)].concat();
    for level in Level::available() {
        for lane in all.as_chunks::<LANES>().0 {
            let mut rounded = [0; LANES];
            level.run(Round(lane, &mut rounded));
            assert_eq!(rounded, lane.map(|number| half::f16::from_f32(number).to_bits()), "{level:?}");
        }
        let mut rounded = [0; LANES];
        level.run(Round(&[f32::NAN; LANES], &mut rounded));
        assert!(rounded.iter().all(|bits| half::f16::from_bits(*bits).is_nan()), "{level:?}");
    }
}

#[test]
fn a_key_that_is_no_number_leaves_none() {
    for kv_type in [KvType::F32, KvType::F16] {
        let shape = KvShape { layers: 1, heads: 1, head_dim: 2, kv_type };
        let (mut pool, table) = (KvPool::new(shape, 1), [BlockId(0)]);
        pool.write(0, &table, 0, &[f32::NAN, 0.0], &[1.0, 1.0]);
        for level in Level::available() {
            let mut out = [0.0; 2];
            let heads = Heads { count: 1, queries: &[1.0, 1.0], stride: 2 };
            attention(level, &pool, 0, heads, &[Place { table: &table, position: 0 }], &mut out);
            assert!(out[0].is_nan());
        }
    }
}

#[test]
fn keys_and_values_beyond_f16_become_its_largest_number() {
    let shape = KvShape { layers: 1, heads: 1, head_dim: 2, kv_type: KvType::F16 };
    let (mut pool, table) = (KvPool::new(shape, 1), [BlockId(0)]);
    pool.write(0, &table, 0, &[1e9, -1e9], &[1e9, f32::NEG_INFINITY]);
    for level in Level::available() {
        let mut out = [0.0; 2];
        let heads = Heads { count: 1, queries: &[1.0, 0.5], stride: 2 };
        attention(level, &pool, 0, heads, &[Place { table: &table, position: 0 }], &mut out);
        assert_eq!(out, [65_504.0, -65_504.0]);
    }
}

#[test]
fn tokens_have_the_same_bits_alone_and_together() {
    let (heads, head_dim, length) = (3, 40, 75);
    for (sharing, kv_type) in [(1, KvType::F16), (2, KvType::F16), (4, KvType::F16), (1, KvType::F32)] {
        let (width, count) = (heads * head_dim, heads * sharing);
        let mut pool = KvPool::new(KvShape { layers: 1, heads, head_dim, kv_type }, 6);
        let tables = [[4, 1, 3], [0, 5, 2]].map(|table| table.map(BlockId));
        for (table, seed) in tables.iter().zip(1..) {
            let (keys, values) = (numbers(seed, length * width), numbers(!seed, length * width));
            for (position, (key, value)) in keys.chunks(width).zip(values.chunks(width)).enumerate() {
                pool.write(0, table, position, key, value);
            }
        }
        // Two sequences, the second with a gap, and a token that is alone.
        let positions = [(0, 20..75), (1, 0..3), (1, 31..38), (0, 74..75)];
        let places: Vec<_> = positions
            .into_iter()
            .flat_map(|(text, range): (usize, std::ops::Range<usize>)| {
                range.map(move |position| (text, position))
            })
            .map(|(text, position)| Place { table: &tables[text], position })
            .collect();
        let queries = numbers(9, places.len() * count * head_dim);
        let row = count * head_dim;
        for level in Level::available() {
            let run = |rows: std::ops::Range<usize>| {
                let mut out = vec![f32::NAN; rows.len() * row];
                let queries = &queries[rows.start * row..rows.end * row];
                attention(level, &pool, 0, Heads { count, queries, stride: row }, &places[rows], &mut out);
                out
            };
            let together = run(0..places.len());
            let alone: Vec<_> = (0..places.len()).flat_map(|token| run(token..token + 1)).collect();
            assert!(
                together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{level:?}, {sharing}"
            );
        }
    }
}

#[test]
fn a_gate_that_is_shut_leaves_nothing_denormal() {
    let gates: Vec<f32> = (0..6000).map(|step| step as f32 * -0.01).collect();
    let x = [gates.as_slice(), &vec![1e-3; gates.len()]].concat();
    for level in Level::available() {
        let mut out = vec![f32::NAN; gates.len()];
        geglu(level, &x, gates.len(), &mut out);
        assert!(out.iter().all(|value| *value == 0.0 || value.is_normal()), "{level:?}");
        assert!(out[300] < 0.0 && out[1000..].iter().all(|value| *value == 0.0), "{level:?}");
    }
}

#[test]
fn a_rotation_turns_pairs_by_their_positions() {
    let angles = Angles::new(&[1.0, 0.1], [0, 3].into_iter());
    let mut x = [1.0, 2.0, 3.0, 4.0, 9.0, 1.0, 2.0, 3.0, 4.0, 9.0];
    rotate(&angles, &mut x, 5, 4);
    assert_eq!(x[..5], [1.0, 2.0, 3.0, 4.0, 9.0]);
    let (sin, cos) = 3.0f32.sin_cos();
    let (small_sin, small_cos) = 0.3f32.sin_cos();
    let expected = [
        cos - 3.0 * sin,
        2.0 * small_cos - 4.0 * small_sin,
        3.0 * cos + sin,
        4.0 * small_cos + 2.0 * small_sin,
        9.0,
    ];
    assert!(x[5..].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{x:?}");
}
