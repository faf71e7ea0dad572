//! Products against the textbook, and with each other: a batch must give the bits of its members.

use codeseal::kernels::cuda::{DeviceError, Matrix, Narrow, Tile};
use half::{bf16, f16};

use crate::device::Emulator;
use crate::numbers::{Numbers, assert_close};
use crate::pages::From32;
use crate::weights::{matrices, plain};

/// How many vectors there are makes the order of additions, or it does not.
#[derive(Clone, Copy)]
enum Way {
    Few,
    Many(Tile),
}

const WAYS: [Way; 3] = [Way::Few, Way::Many(Tile::Small), Way::Many(Tile::Large)];

fn multiply<T: Narrow>(device: &Emulator, way: Way, matrix: &Matrix<Emulator, T>, x: &[T]) -> Vec<f32> {
    let (x, mut out) = (device.put(x), device.room(x.len() / matrix.columns() * matrix.rows()));
    let (view, to) = (x.view(), &mut out.view_mut());
    match way {
        Way::Few => matrix.multiply(device, view, to),
        Way::Many(tile) => matrix.multiply_in_tiles(device, tile, view, to),
    }
    .unwrap();
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

fn check<T: Narrow + From32>(device: &Emulator, numbers: &mut Numbers, way: Way, rounding: f64) {
    let most = if matches!(way, Way::Few) { 75 } else { 140 };
    let (rows, count) = (numbers.between(1, most), numbers.between(1, most));
    let columns = numbers.pick(&[8, 32, 72, 96, 200, 256, 288, 768]);
    let x: Vec<T> = vectors(numbers, count * columns);
    for (index, (matrix, weights)) in matrices(device, numbers, rows, columns).into_iter().enumerate() {
        // Many vectors meet quantised weights that are rounded.
        let tolerance = if index > 0 && matches!(way, Way::Many(_)) { rounding } else { 2e-5 };
        let size = (columns as f64).sqrt();
        let found = multiply(device, way, &matrix, &x);
        assert_close(&found, &textbook(&weights, &x, columns), tolerance, size);
    }
}

#[test]
fn products_are_those_of_the_textbook() {
    for round in 0..2 {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(round);
            check::<bf16>(device, &mut numbers, Way::Few, 0.0);
            check::<f16>(device, &mut numbers, Way::Few, 0.0);
        });
    }
}

#[test]
fn products_in_tiles_are_those_of_the_textbook() {
    for tile in [Tile::Small, Tile::Large] {
        Emulator::under_each_schedule(2, |device| {
            let mut numbers = Numbers::new(100 + tile as u64);
            check::<bf16>(device, &mut numbers, Way::Many(tile), 8e-3);
            check::<f16>(device, &mut numbers, Way::Many(tile), 1e-3);
        });
    }
}

#[test]
fn a_batch_gives_the_bits_of_its_members() {
    let (device, mut numbers) = (&Emulator, Numbers::new(8));
    let (rows, columns) = (37, 768);
    let x: Vec<bf16> = vectors(&mut numbers, 70 * columns);
    for (matrix, _) in matrices(device, &mut numbers, rows, columns) {
        let alone: Vec<f32> =
            x.chunks(columns).flat_map(|x| multiply(device, Way::Few, &matrix, x)).collect();
        for count in [2, 8, 9, 17, 33, 64, 65, 70] {
            let together = multiply(device, Way::Few, &matrix, &x[..count * columns]);
            assert!(together == alone[..count * rows], "{count}");
        }
    }
}

#[test]
fn many_vectors_give_the_bits_of_each_in_tiles_of_any_size() {
    let (device, mut numbers) = (&Emulator, Numbers::new(9));
    let (rows, columns, count) = (70, 256, 67);
    let x: Vec<bf16> = vectors(&mut numbers, count * columns);
    for (matrix, _) in matrices(device, &mut numbers, rows, columns) {
        let together = multiply(device, Way::Many(Tile::Large), &matrix, &x);
        assert!(multiply(device, Way::Many(Tile::Small), &matrix, &x) == together);
        for at in [0, 1, 31, 63, 64, 66] {
            let (x, expected) = (&x[at * columns..][..columns], &together[at * rows..][..rows]);
            assert!(multiply(device, Way::Many(Tile::Small), &matrix, x) == expected);
        }
    }
}

#[test]
fn large_numbers_stay_numbers_with_f16_weights() {
    for way in WAYS {
        let matrix = plain(&Emulator, &[f16::MAX.to_f32(); 64], 64);
        let out = multiply(&Emulator, way, &matrix, &[f16::MAX; 64]);
        assert!((out[0] / (65504.0 * 65504.0 * 64.0) - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_scale_that_is_no_number_shows_in_the_result() {
    let weights = [[0.5; 32], [f32::NAN; 32]].concat();
    let blocks = codeseal::kernels::cuda::quantise(&weights);
    for way in WAYS {
        let matrix = crate::weights::q8_0(&Emulator, &blocks, 64);
        assert!(!multiply(&Emulator, way, &matrix, &[bf16::ONE; 64])[0].is_finite());
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
    let refused = matrix.multiply(device, x.view(), &mut out.view_mut());
    assert!(matches!(refused, Err(DeviceError::Shape { .. })));
    let refused = matrix.multiply_many(device, x.view(), &mut out.view_mut());
    assert!(matches!(refused, Err(DeviceError::Shape { .. })));
}
