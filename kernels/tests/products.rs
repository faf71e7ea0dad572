//! Products against the textbook, and with each other: a batch must give the bits of its members.

use codeseal_kernels::cuda::{Blocks, DeviceError, Matrix, Narrow, quantize_q8_0};
use half::{bf16, f16};

use codeseal_emulator::device::{Emulator, Traits};
use codeseal_emulator::matrices::{matrices, plain, q8_0};
use codeseal_emulator::numbers::{Numbers, assert_close};
use codeseal_emulator::pages::From32;

/// How vectors go: as tokens that are decoded, or as a prompt's, and in how large blocks.
#[derive(Clone, Copy)]
struct Way {
    prompt: bool,
    blocks: Blocks,
}

const WAYS: [Way; 4] = [
    Way { prompt: false, blocks: Blocks::Small },
    Way { prompt: false, blocks: Blocks::Large },
    Way { prompt: true, blocks: Blocks::Small },
    Way { prompt: true, blocks: Blocks::Large },
];

/// The matrix, the number of prompt vectors, and the number of all vectors.
fn on_its_way<T: Narrow>(
    way: Way,
    matrix: Matrix<Emulator, T>,
    count: usize,
) -> (Matrix<Emulator, T>, usize) {
    (matrix.in_blocks(way.blocks), if way.prompt { count } else { 0 })
}

fn multiply<T: Narrow>(device: &Emulator, matrix: &Matrix<Emulator, T>, read: usize, x: &[T]) -> Vec<f32> {
    let (x, mut out) = (device.put(x), device.room(x.len() / matrix.columns() * matrix.rows()));
    matrix.multiply(device, read, x.view(), &mut out.view_mut()).unwrap();
    out.read(device).unwrap()
}

fn multiply_geglu<T: Narrow>(
    device: &Emulator,
    matrix: &Matrix<Emulator, T>,
    read: usize,
    x: &[T],
) -> Vec<T> {
    let (x, mut out) = (device.put(x), device.room(x.len() / matrix.columns() * matrix.rows() / 2));
    matrix.multiply_geglu(device, read, x.view(), &mut out.view_mut()).unwrap();
    out.read(device).unwrap()
}

fn vectors<T: From32>(numbers: &mut Numbers, count: usize) -> Vec<T> {
    numbers.normals(count, 1.0).into_iter().map(T::from32).collect()
}

fn textbook<T: From32 + Copy>(weights: &[f32], x: &[T], columns: usize) -> Vec<f64> {
    let product = |row: &[f32], x: &[T]| {
        row.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b.to32())).sum::<f64>()
    };
    x.chunks(columns).flat_map(|x| weights.chunks(columns).map(move |row| product(row, x))).collect()
}

/// One of each type of weights. `coarse` is how far a weight that is rounded may be off.
fn check<T: Narrow + From32>(device: &Emulator, numbers: &mut Numbers, way: Way, fine: f64, coarse: f64) {
    let (ups, count) = (numbers.between(1, 70), numbers.between(1, if way.prompt { 140 } else { 75 }));
    let columns = numbers.pick(&[8, 32, 72, 96, 200, 256, 288, 768]);
    let (x, size): (Vec<T>, _) = (vectors(numbers, count * columns), (columns as f64).sqrt());
    for (index, (matrix, weights)) in matrices(device, numbers, 2 * ups, columns).into_iter().enumerate() {
        // Prompts meet quantized weights that are rounded.
        let tolerance = if index > 0 && way.prompt { coarse } else { 2e-5 };
        let (matrix, read) = on_its_way(way, matrix, count);
        let expected = textbook(&weights, &x, columns);
        let sums = multiply(device, &matrix, read, &x);
        assert_close(&sums, &expected, tolerance, size);
        // Of the sums as they are, each a gate or an up of its vector.
        let mut activated = Vec::new();
        for sums in sums.chunks(2 * ups) {
            let (gates, ups) = sums.split_at(ups);
            activated.extend(gates.iter().zip(ups).map(|(&gate, &up)| gelu(gate) * f64::from(up)));
        }
        let found: Vec<f32> = multiply_geglu(device, &matrix, read, &x).into_iter().map(T::to32).collect();
        assert_close(&found, &activated, fine, 0.1);
    }
}

/// The approximation by tanh.
fn gelu(gate: f32) -> f64 {
    let x = f64::from(gate);
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
    0.5 * x * (1.0 + u.tanh())
}

#[test]
fn products_are_those_of_the_textbook() {
    for (round, way) in (0..).zip(WAYS) {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(round);
            check::<bf16>(device, &mut numbers, way, 1.0 / 250.0, 8e-3);
            check::<f16>(device, &mut numbers, way, 1.0 / 2000.0, 1e-3);
        });
    }
}

#[test]
fn a_batch_gives_the_bits_of_its_members() {
    let (device, mut numbers) = (&Emulator, Numbers::new(8));
    let (rows, columns) = (138, 768);
    let x: Vec<bf16> = vectors(&mut numbers, 70 * columns);
    for (matrix, _) in matrices(device, &mut numbers, rows, columns) {
        let mut matrix = matrix.in_blocks(Blocks::Small);
        let alone = x.chunks(columns).map(|x| multiply(device, &matrix, 0, x)).collect::<Vec<_>>().concat();
        let gated =
            x.chunks(columns).map(|x| multiply_geglu(device, &matrix, 0, x)).collect::<Vec<_>>().concat();
        for (blocks, counts) in
            [(Blocks::Small, &[2, 8, 9, 17, 33, 64, 65, 70][..]), (Blocks::Large, &[17, 33, 70])]
        {
            matrix = matrix.in_blocks(blocks);
            for &count in counts {
                let x = &x[..count * columns];
                assert!(multiply(device, &matrix, 0, x) == alone[..count * rows], "{count}");
                assert!(multiply_geglu(device, &matrix, 0, x) == gated[..count * rows / 2], "{count}");
            }
        }
    }
}

#[test]
fn prompts_give_the_bits_of_each_token_in_blocks_of_any_size() {
    let (device, mut numbers) = (&Emulator, Numbers::new(9));
    let (rows, columns, count) = (70, 256, 67);
    let x: Vec<bf16> = vectors(&mut numbers, count * columns);
    for (matrix, _) in matrices(device, &mut numbers, rows, columns) {
        let matrix = matrix.in_blocks(Blocks::Large);
        let together = multiply(device, &matrix, count, &x);
        let gated = multiply_geglu(device, &matrix, count, &x);
        let matrix = matrix.in_blocks(Blocks::Small);
        assert!(multiply(device, &matrix, count, &x) == together);
        assert!(multiply_geglu(device, &matrix, count, &x) == gated);
        for at in [0, 1, 31, 63, 64, 66] {
            let x = &x[at * columns..][..columns];
            assert!(multiply(device, &matrix, 1, x) == together[at * rows..][..rows]);
        }
    }
}

#[test]
fn each_size_of_block_has_kernels_of_its_own() {
    // All give the same bits, so that only what is missing without one shows that it ran.
    let matrix = |blocks| plain::<bf16>(&Emulator, &[1.0; 64 * 32], 32).in_blocks(blocks);
    for (blocks, read, count, sums, gated) in [
        (Blocks::Small, 0, 8, "skinny_plain_bf16_8", "skinny_geglu_plain_bf16_8"),
        (Blocks::Large, 0, 16, "skinny_plain_bf16_16", "skinny_geglu_plain_bf16_16"),
        (Blocks::Small, 0, 20, "skinny_plain_bf16_32", "skinny_geglu_plain_bf16_32"),
        (Blocks::Large, 0, 20, "wide_plain_bf16_32", "wide_geglu_plain_bf16_32"),
        (Blocks::Large, 0, 33, "wide_plain_bf16_64", "wide_geglu_plain_bf16_64"),
        (Blocks::Small, 3, 3, "gemm_plain_bf16_64", "gemm_geglu_plain_bf16_64"),
        (Blocks::Large, 3, 3, "gemm_plain_bf16_128", "gemm_geglu_plain_bf16_128"),
    ] {
        let x = vec![bf16::ONE; count * 32];
        for (idle, sums_are_there, gated_are_there) in
            [(None, true, true), (Some(sums), false, true), (Some(gated), true, false)]
        {
            let device = &Emulator::with(Traits { idle, ..Traits::SOUND });
            assert_eq!(multiply(device, &matrix(blocks), read, &x)[0] == 32.0, sums_are_there, "{idle:?}");
            let found = multiply_geglu(device, &matrix(blocks), read, &x)[0];
            assert_eq!(found == bf16::from_f32(1024.0), gated_are_there, "{idle:?}");
        }
    }
    Emulator::with(Traits::SOUND);
}

#[test]
fn prompts_and_decoded_tokens_do_not_know_of_each_other() {
    let (device, mut numbers) = (&Emulator, Numbers::new(10));
    let (rows, columns, count, read) = (40, 96, 25, 14);
    let x: Vec<f16> = vectors(&mut numbers, count * columns);
    for (matrix, _) in matrices(device, &mut numbers, rows, columns) {
        let (prompt, decoded) = x.split_at(read * columns);
        let expected =
            [multiply(device, &matrix, read, prompt), multiply(device, &matrix, 0, decoded)].concat();
        assert!(multiply(device, &matrix, read, &x) == expected);
    }
}

#[test]
fn large_numbers_stay_numbers_in_f16() {
    for way in WAYS {
        let (matrix, read) = on_its_way(way, plain(&Emulator, &[f16::MAX.to_f32(); 128], 64), 1);
        let sums = multiply(&Emulator, &matrix, read, &[f16::MAX; 64]);
        assert!((sums[0] / (65504.0 * 65504.0 * 64.0) - 1.0).abs() < 1e-5);
        // What is too large becomes the largest number, and what is shut stays so.
        assert_eq!(multiply_geglu(&Emulator, &matrix, read, &[f16::MAX; 64]), [f16::MAX]);
        assert_eq!(multiply_geglu(&Emulator, &matrix, read, &[f16::MIN; 64]), [f16::ZERO]);
    }
}

#[test]
fn a_scale_that_is_no_number_shows_in_the_result() {
    let weights = [[0.5; 32], [f32::NAN; 32]].concat();
    let blocks = quantize_q8_0(&weights);
    for way in WAYS {
        let (matrix, read) = on_its_way(way, q8_0(&Emulator, &blocks, 64), 1);
        assert!(!multiply(&Emulator, &matrix, read, &[bf16::ONE; 64])[0].is_finite());
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let device = &Emulator;
    assert!(Matrix::plain(device.put(&[bf16::ONE; 24]), 12).is_err());
    assert!(Matrix::plain(device.put(&[bf16::ONE; 24]), 16).is_err());
    let words = |count: usize| device.put(&vec![0u32; count]);
    // Two rows of 64 columns are 32 words of quants and two of scales.
    assert!(Matrix::<_, bf16>::q8_0(words(32), words(2), 64).is_ok());
    assert!(Matrix::<_, bf16>::q8_0(words(32), words(3), 64).is_err());
    assert!(Matrix::<_, bf16>::q8_0(words(32), words(2), 48).is_err());
    // Two rows of 256 are 64 words of quants and eight of heads.
    assert!(Matrix::<_, bf16>::q4k(words(64), words(8), 256).is_ok());
    assert!(Matrix::<_, bf16>::q4k(words(64), words(4), 256).is_err());
    assert!(Matrix::<_, bf16>::q4k(words(64), words(8), 128).is_err());
    let matrix = Matrix::plain(device.put(&[bf16::ONE; 24]), 8).unwrap();
    let (x, mut out) = (device.put(&[bf16::ONE; 16]), device.room::<f32>(5));
    for read in [0, 2] {
        let refused = matrix.multiply(device, read, x.view(), &mut out.view_mut());
        assert!(matches!(refused, Err(DeviceError::Shape { .. })));
    }
    let mut out = device.room::<f32>(6);
    assert!(matrix.multiply(device, 2, x.view(), &mut out.view_mut()).is_ok());
    let refused = matrix.multiply(device, 3, x.view(), &mut out.view_mut());
    assert!(matches!(refused, Err(DeviceError::Shape { .. })), "there are two vectors");
    let mut out = device.room::<bf16>(3);
    let refused = matrix.multiply_geglu(device, 0, x.view(), &mut out.view_mut());
    assert!(matches!(refused, Err(DeviceError::Shape { .. })), "three rows are not gates and as many ups");
}
