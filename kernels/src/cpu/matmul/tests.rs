//! Every type of weights, on every instruction set of this machine, against a plain implementation in f64.

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::cpu::tests::{close, dot, numbers};
use crate::cpu::{Format, Source, quantize_q4k};

const FORMATS: [Format; 4] = [Format::F32, Format::Bf16, Format::Q8_0, Format::Q4K];

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect()
}

fn matrix(format: Format, rows: usize, columns: usize, seed: u64) -> Matrix {
    let bytes = bytes(&numbers(seed, rows * columns));
    let mut matrix = Matrix::zeros(format, rows, columns);
    // In two pieces, as a file is read.
    let (head, tail) = bytes.split_at(rows / 2 * columns * 2);
    matrix.fill_rows(0, Source::Bf16, head);
    matrix.fill_rows(rows / 2, Source::Bf16, tail);
    matrix
}

fn row(matrix: &Matrix, row: usize) -> Vec<f32> {
    let mut numbers = vec![f32::NAN; matrix.columns()];
    matrix.read_row(row, 1.0, &mut numbers);
    numbers
}

/// What the activations of a token are rounded to before they meet weights of this type.
fn rounded(level: Level, format: Format, x: &[f32]) -> Vec<f32> {
    match format {
        Format::Q8_0 | Format::Q4K => x
            .chunks(32)
            .flat_map(|block| {
                let most = block.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                block.iter().map(move |value| (value * (127.0 / most)).round_ties_even() * (most / 127.0))
            })
            .collect(),
        Format::Bf16 if level.multiplies_bf16() => {
            x.iter().map(|value| bf16::from_f32(*value).to_f32()).collect()
        }
        Format::Bf16 | Format::F32 => x.to_vec(),
    }
}

fn textbook_holds(
    rows: usize,
    columns: usize,
    count: usize,
    seed: u64,
    formats: &[Format],
) -> Result<(), TestCaseError> {
    let x = numbers(seed, count * columns);
    for &format in formats {
        let matrix = matrix(format, rows, columns, !seed);
        let weights: Vec<_> = (0..rows).map(|number| row(&matrix, number)).collect();
        for level in Level::available() {
            let mut out = vec![f32::NAN; count * rows];
            matmul(level, &matrix, &x, &mut out);
            for (x, out) in x.chunks(columns).zip(out.chunks(rows)) {
                let x = rounded(level, format, x);
                close(out, weights.iter().map(|weights| dot(weights, &x)), 2e-5)?;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_are_those_of_the_textbook(
        rows in 1usize..90, columns in 1usize..200, count in 1usize..28, seed: u64,
    ) {
        textbook_holds(rows, columns, count, seed, &[Format::F32, Format::Bf16, Format::Q8_0])?;
    }

    #[test]
    fn products_of_four_bits_are_those_of_the_textbook(
        rows in 1usize..40, blocks in 1usize..3, count in 1usize..14, seed: u64,
    ) {
        textbook_holds(rows, 256 * blocks, count, seed, &[Format::Q4K])?;
    }

    #[test]
    fn weights_are_kept_as_exactly_as_their_format_can(
        rows in 1usize..40, columns in 1usize..100, seed: u64,
    ) {
        let expected: Vec<f32> =
            numbers(seed, rows * columns).into_iter().map(|value| bf16::from_f32(value).to_f32()).collect();
        for format in FORMATS {
            let matrix = matrix(format, rows, columns, seed);
            for (number, expected) in expected.chunks(columns).enumerate() {
                let tolerance = if matches!(format, Format::F32 | Format::Bf16) { 0.0 } else { 0.6 / 127.0 };
                close(&row(&matrix, number), expected.iter().map(|&value| f64::from(value)), tolerance)?;
            }
        }
    }

    #[test]
    fn pieces_of_any_height_make_the_same_matrix(cuts in proptest::collection::vec(0usize..50, 0..6)) {
        let (rows, columns) = (50, 256);
        let bytes = bytes(&numbers(7, rows * columns));
        for format in FORMATS {
            let mut whole = Matrix::zeros(format, rows, columns);
            whole.fill_rows(0, Source::Bf16, &bytes);
            let mut pieces = Matrix::zeros(format, rows, columns);
            let mut cuts = [vec![0], cuts.clone(), vec![rows]].concat();
            cuts.sort_unstable();
            for piece in cuts.windows(2) {
                pieces.fill_rows(piece[0], Source::Bf16, &bytes[2 * columns * piece[0]..2 * columns * piece[1]]);
            }
            for number in 0..rows {
                prop_assert_eq!(row(&whole, number), row(&pieces, number));
            }
        }
    }
}

#[test]
fn a_batch_gives_the_bits_of_its_members_on_any_number_of_threads() {
    // With rows, columns and activations left over everywhere.
    let (rows, count) = (150, 45);
    let pools = [1, 3].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    for (format, columns) in FORMATS.map(|format| (format, if format == Format::Q4K { 768 } else { 1101 })) {
        let x = numbers(1, count * columns);
        let matrix = matrix(format, rows, columns, 2);
        for level in Level::available() {
            let mut alone = vec![f32::NAN; count * rows];
            for (x, out) in x.chunks(columns).zip(alone.chunks_mut(rows)) {
                matmul(level, &matrix, x, out);
            }
            for (pool, count) in pools.iter().zip([count, 19]) {
                let mut together = vec![f32::NAN; count * rows];
                pool.install(|| matmul(level, &matrix, &x[..count * columns], &mut together));
                assert!(alone[..count * rows] == together, "{format:?} {level:?}");
            }
        }
    }
}

#[test]
fn instruction_sets_that_fuse_give_the_same_bits() {
    let (rows, columns) = (70, 512);
    for format in [Format::F32, Format::Q8_0, Format::Q4K] {
        let (x, matrix) = (numbers(1, 3 * columns), matrix(format, rows, columns, 2));
        let results: Vec<_> = Level::available()
            .filter(|level| *level != Level::portable())
            .map(|level| {
                let mut out = vec![f32::NAN; 3 * rows];
                matmul(level, &matrix, &x, &mut out);
                out
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{format:?}");
    }
}

#[test]
fn what_is_no_number_stays_none() {
    let columns = 256;
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for format in FORMATS {
            let mut of_weights = matrix(format, 2, columns, 5);
            let bytes: Vec<u8> =
                [broken].repeat(columns).iter().flat_map(|value| value.to_le_bytes()).collect();
            of_weights.fill_rows(1, Source::F32, &bytes);
            let of_activations = matrix(format, 2, columns, 5);
            let mut x = vec![0.5; 2 * columns];
            for level in Level::available() {
                let mut out = [0.0; 2];
                matmul(level, &of_weights, &x[..columns], &mut out);
                assert!(out[0].is_finite() && !out[1].is_finite(), "{format:?} {broken} {level:?}");
            }
            x[columns + 77] = broken;
            for level in Level::available() {
                let mut out = [0.0; 4];
                matmul(level, &of_activations, &x, &mut out);
                assert!(out[..2].iter().all(|value| value.is_finite()), "{format:?} {broken} {level:?}");
                assert!(out[2..].iter().all(|value| !value.is_finite()), "{format:?} {broken} {level:?}");
            }
        }
    }
}

/// The mean square of what a quantized matrix differs by from what it was made of.
fn error(exact: &[f32], matrix: &Matrix) -> f64 {
    let columns = matrix.columns();
    let rows = exact.chunks(columns).enumerate();
    let squares = rows.flat_map(|(number, exact)| {
        row(matrix, number).into_iter().zip(exact).map(|(a, b)| f64::from(a - b).powi(2)).collect::<Vec<_>>()
    });
    squares.sum::<f64>() / exact.len() as f64
}

#[test]
fn four_bits_are_chosen_better_than_by_candle() {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    let (rows, columns) = (48, 512);
    // Like trained weights: the sum of several uniform numbers, and rows of different sizes.
    let uniform: Vec<_> = (0..6).map(|seed| numbers(seed, rows * columns)).collect();
    let exact: Vec<f32> = (0..rows * columns)
        .map(|at| {
            uniform.iter().map(|uniform| uniform[at]).sum::<f32>() * 0.01 * (1 + at / columns % 5) as f32
        })
        .collect();
    let mut ours = Matrix::zeros(Format::Q4K, rows, columns);
    let bytes: Vec<u8> = exact.iter().flat_map(|value| value.to_le_bytes()).collect();
    ours.fill_rows(0, Source::F32, &bytes);
    let tensor = Tensor::from_slice(&exact, (rows, columns), &Device::Cpu).unwrap();
    let theirs = QTensor::quantize(&tensor, GgmlDType::Q4K).unwrap();
    let mut theirs_as_ours = Matrix::zeros(Format::Q4K, rows, columns);
    theirs_as_ours.fill_rows(0, Source::Q4K, &theirs.data().unwrap());
    let (ours, theirs) = (error(&exact, &ours), error(&exact, &theirs_as_ours));
    assert!(ours > 0.0 && ours < theirs, "{ours} is not less than {theirs}");
}

#[test]
fn blocks_of_files_mean_what_candle_reads_in_them() {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    let (rows, columns) = (19, 512);
    let exact = numbers(3, rows * columns);
    let tensor = Tensor::from_slice(&exact, (rows, columns), &Device::Cpu).unwrap();
    for (source, theirs, format) in [
        (Source::Q8_0, GgmlDType::Q8_0, Format::Q8_0),
        (Source::Q4_0, GgmlDType::Q4_0, Format::Q8_0),
        (Source::Q5_0, GgmlDType::Q5_0, Format::Q8_0),
        (Source::Q4_1, GgmlDType::Q4_1, Format::F32),
        (Source::Q5_1, GgmlDType::Q5_1, Format::F32),
        (Source::Q2K, GgmlDType::Q2K, Format::F32),
        (Source::Q3K, GgmlDType::Q3K, Format::F32),
        (Source::Q4K, GgmlDType::Q4K, Format::Q4K),
        (Source::Q5K, GgmlDType::Q5K, Format::F32),
        (Source::Q6K, GgmlDType::Q6K, Format::F32),
    ] {
        let quantized = QTensor::quantize(&tensor, theirs).unwrap();
        let bytes = quantized.data().unwrap();
        assert_eq!(source.bytes(rows * columns), Some(bytes.len()));
        assert_eq!(source.numbers(bytes.len()), rows * columns);
        let expected: Vec<f32> =
            quantized.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        // What is read, and what is taken over as it is.
        let mut read = vec![f32::NAN; rows * columns];
        source.read(&bytes, &mut read);
        let mut matrix = Matrix::zeros(format, rows, columns);
        matrix.fill_rows(0, source, &bytes);
        for ((number, expected), read) in expected.chunks(columns).enumerate().zip(read.chunks(columns)) {
            assert_eq!(read, expected, "{source:?}");
            assert_eq!(row(&matrix, number), expected, "{source:?}");
        }
    }
    assert_eq!(Source::Q4K.bytes(300), None);
}

#[test]
fn blocks_that_are_written_are_those_that_are_chosen_for_a_matrix() {
    // Nineteen blocks: a whole lane, and three more.
    let (rows, columns) = (19, 256);
    let exact = numbers(4, rows * columns);
    let mut matrix = Matrix::zeros(Format::Q4K, rows, columns);
    matrix.fill_rows(0, Source::F32, &exact.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>());
    let mut read = vec![f32::NAN; rows * columns];
    let blocks = quantize_q4k(&exact);
    assert_eq!(Source::Q4K.bytes(rows * columns), Some(blocks.len()));
    Source::Q4K.read(&blocks, &mut read);
    for (number, read) in read.chunks(columns).enumerate() {
        assert_eq!(row(&matrix, number), read, "{number}");
    }
}

#[test]
fn four_bits_fall_back_to_eight_where_blocks_do_not_fit() {
    assert_eq!(Matrix::zeros(Format::Q4K, 16, 320).bytes(), Matrix::zeros(Format::Q8_0, 16, 320).bytes());
    // 4.625 bits each: sixteen times 256 halves of bytes, two bytes for every 32, and two f16.
    assert_eq!(Matrix::zeros(Format::Q4K, 16, 512).bytes(), 16 * 2 * (128 + 16 + 4));
}

#[test]
fn files_hold_numbers_of_three_types() {
    let read = |source: Source, bytes: &[u8]| {
        let mut numbers = vec![f32::NAN; source.numbers(bytes.len())];
        source.read(bytes, &mut numbers);
        numbers
    };
    let bytes = [1.5f32.to_le_bytes().as_slice(), &(-2.0f32).to_le_bytes()].concat();
    assert_eq!(read(Source::F32, &bytes), [1.5, -2.0]);
    assert_eq!(read(Source::F16, &f16::from_f32(0.25).to_le_bytes()), [0.25]);
    assert_eq!(read(Source::Bf16, &bf16::from_f32(3.0).to_le_bytes()), [3.0]);
}
