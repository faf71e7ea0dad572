//! Every kernel, on every instruction set of this machine, against the textbook in f64.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;

const FORMATS: [Format; 3] = [Format::F32, Format::Bf16, Format::Q8_0];

/// Numbers between -1 and 1.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64)
        .map(|index| {
            let mixed =
                (seed ^ index.wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed >> 40) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn matrix(format: Format, rows: usize, columns: usize, seed: u64) -> Matrix {
    let bytes: Vec<u8> =
        numbers(seed, rows * columns).iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect();
    let mut matrix = Matrix::zeros(format, rows, columns);
    // In two pieces, as a file is read.
    let (head, tail) = bytes.split_at(rows / 2 * columns * 2);
    matrix.fill_rows(0, Source::Bf16, head);
    matrix.fill_rows(rows / 2, Source::Bf16, tail);
    matrix
}

fn row(matrix: &Matrix, row: usize) -> Vec<f32> {
    let mut numbers = vec![0.0; matrix.columns()];
    matrix.read_row(row, 1.0, &mut numbers);
    numbers
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn close(a: &[f32], b: impl IntoIterator<Item = f64>, tolerance: f64) -> Result<(), TestCaseError> {
    for (index, (&a, b)) in a.iter().zip(b).enumerate() {
        prop_assert!((f64::from(a) - b).abs() <= tolerance * b.abs().max(1.0), "{index}: {a} instead of {b}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn products_are_those_of_the_textbook(
        rows in 1usize..150, columns in 1usize..200, count in 1usize..16, seed: u64,
    ) {
        let x = numbers(seed, count * columns);
        for format in FORMATS {
            let matrix = matrix(format, rows, columns, !seed);
            let weights: Vec<_> = (0..rows).map(|number| row(&matrix, number)).collect();
            for level in Level::available() {
                let mut out = vec![f32::NAN; count * rows];
                matmul(level, &matrix, &x, &mut out);
                for (x, out) in x.chunks(columns).zip(out.chunks(rows)) {
                    close(out, weights.iter().map(|weights| dot(weights, x)), 1e-5)?;
                }
            }
        }
    }

    #[test]
    fn weights_are_kept_as_exactly_as_their_format_can(
        rows in 1usize..9, columns in 1usize..100, seed: u64,
    ) {
        let expected: Vec<f32> =
            numbers(seed, rows * columns).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
        for format in FORMATS {
            let matrix = matrix(format, rows, columns, seed);
            for (number, expected) in expected.chunks(columns).enumerate() {
                let tolerance = if format == Format::Q8_0 { 0.6 / 127.0 } else { 0.0 };
                close(&row(&matrix, number), expected.iter().map(|&value| f64::from(value)), tolerance)?;
            }
        }
    }

    #[test]
    fn attention_is_that_of_the_textbook(
        heads in 1usize..7, sharing in 1usize..9, head_dim in 1usize..70, before in 0usize..100,
        tokens in 1usize..4, seed: u64,
    ) {
        let shape = KvShape { layers: 2, heads, head_dim };
        let (width, count) = (heads * head_dim, heads * sharing);
        let length = before + tokens;
        let (keys, values) = (numbers(seed, length * width), numbers(!seed, length * width));
        let mut pool = KvPool::new(shape, length.div_ceil(BLOCK_TOKENS) + 1);
        // The last block first, and one that belongs to nobody.
        let table: Vec<_> = (1..pool.len() as u32).rev().map(BlockId).collect();
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
fn a_batch_gives_the_bits_of_its_members_on_any_number_of_threads() {
    // Wider than a panel, with rows and activations left over everywhere.
    let (rows, columns, count) = (70, 1100, 99);
    let x = numbers(1, count * columns);
    let pools = [1, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    for format in FORMATS {
        let matrix = matrix(format, rows, columns, 2);
        for level in Level::available() {
            let mut alone = vec![0.0; count * rows];
            for (x, out) in x.chunks(columns).zip(alone.chunks_mut(rows)) {
                matmul(level, &matrix, x, out);
            }
            for pool in &pools {
                let mut together = vec![0.0; count * rows];
                pool.install(|| matmul(level, &matrix, &x, &mut together));
                assert!(alone == together, "{format:?} {level:?}");
            }
        }
    }
}

#[test]
fn instruction_sets_that_fuse_give_the_same_bits() {
    let (x, matrix) = (numbers(1, 3 * 500), matrix(Format::Bf16, 70, 500, 2));
    let results: Vec<_> = Level::available()
        .filter(|level| *level != Level::portable())
        .map(|level| {
            let mut out = vec![0.0; 3 * 70];
            matmul(level, &matrix, &x, &mut out);
            out
        })
        .collect();
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn what_is_no_number_stays_none() {
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for format in FORMATS {
            let mut matrix = matrix(format, 2, 40, 5);
            let bytes: Vec<u8> = [broken].repeat(40).iter().flat_map(|value| value.to_le_bytes()).collect();
            matrix.fill_rows(1, Source::F32, &bytes);
            for level in Level::available() {
                let mut out = [0.0; 2];
                matmul(level, &matrix, &[0.5; 40], &mut out);
                assert!(out[0].is_finite() && !out[1].is_finite(), "{format:?} {broken} {level:?}");
            }
        }
        let shape = KvShape { layers: 1, heads: 1, head_dim: 2 };
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
fn files_hold_numbers_of_three_types() {
    let bytes = [1.5f32.to_le_bytes().as_slice(), &(-2.0f32).to_le_bytes()].concat();
    assert!(Source::F32.read(&bytes).eq([1.5, -2.0]));
    assert!(Source::F16.read(&f16::from_f32(0.25).to_le_bytes()).eq([0.25]));
    assert!(Source::Bf16.read(&bf16::from_f32(3.0).to_le_bytes()).eq([3.0]));
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
