//! Products against the textbook, and with each other: a batch must give the bits of its members.

use codeseal::kernels::cuda::{DeviceError, KvElement, Matrix, quantise};
use half::{bf16, f16};

use crate::device::Emulator;
use crate::numbers::{Numbers, assert_close};

/// A matrix of each kind, and its weights as they are.
fn matrices(device: &Emulator, weights: &[f32], columns: usize) -> Vec<(Matrix<Emulator>, Vec<f32>)> {
    let wide: Vec<bf16> = weights.iter().map(|&weight| bf16::from_f32(weight)).collect();
    let narrow: Vec<f16> = weights.iter().map(|&weight| f16::from_f32(weight)).collect();
    let mut all = vec![
        (
            Matrix::bf16(device.put(&wide), columns).unwrap(),
            wide.iter().map(|weight| weight.to_f32()).collect(),
        ),
        (
            Matrix::f16(device.put(&narrow), columns).unwrap(),
            narrow.iter().map(|weight| weight.to_f32()).collect(),
        ),
    ];
    if columns.is_multiple_of(32) {
        let (quants, scales) = quantise(weights);
        let exact = quants.iter().enumerate().map(|(i, &q)| scales[i / 32].to_f32() * f32::from(q)).collect();
        all.push((Matrix::q8_0(device.put(&quants), device.put(&scales), columns).unwrap(), exact));
    }
    all
}

fn multiply(device: &Emulator, matrix: &Matrix<Emulator>, x: &[f32]) -> Vec<f32> {
    let (x, mut out) = (device.put(x), device.room(x.len() / matrix.columns() * matrix.rows()));
    matrix.multiply(device, x.view(), &mut out.view_mut()).unwrap();
    out.read(device).unwrap()
}

#[test]
fn products_are_those_of_the_textbook() {
    for round in 0..3 {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(round);
            let (rows, vectors) = (numbers.between(1, 70), numbers.between(1, 33));
            let columns = numbers.pick(&[8, 32, 200, 256, 288, 1000, 1056]);
            let x = numbers.normals(vectors * columns, 1.0);
            for (matrix, weights) in matrices(device, &numbers.normals(rows * columns, 1.0), columns) {
                let mut expected = Vec::new();
                for x in x.chunks(columns) {
                    let product =
                        |row: &[f32]| row.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    expected.extend(weights.chunks(columns).map(product).collect::<Vec<f64>>());
                }
                assert_close(&multiply(device, &matrix, &x), &expected, 1e-5, (columns as f64).sqrt());
            }
        });
    }
}

#[test]
fn a_batch_gives_the_bits_of_its_members() {
    let (device, mut numbers) = (&Emulator, Numbers::new(8));
    let (rows, columns) = (37, 544);
    let x = numbers.normals(20 * columns, 1.0);
    for (matrix, _) in matrices(device, &numbers.normals(rows * columns, 1.0), columns) {
        let alone: Vec<f32> = x.chunks(columns).flat_map(|x| multiply(device, &matrix, x)).collect();
        for vectors in [2, 3, 4, 5, 8, 9, 20] {
            assert!(
                multiply(device, &matrix, &x[..vectors * columns]) == alone[..vectors * rows],
                "{vectors}"
            );
        }
    }
}

fn multiply_many<T: KvElement>(device: &Emulator, matrix: &Matrix<Emulator>, x: &[f32]) -> Vec<f32> {
    let (x, mut out) = (device.put(x), device.room(x.len() / matrix.columns() * matrix.rows()));
    matrix.multiply_many::<T>(device, x.view(), &mut out.view_mut()).unwrap();
    out.read(device).unwrap()
}

#[test]
fn products_with_many_vectors_are_those_of_the_textbook() {
    for round in 0..3 {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(100 + round);
            let (rows, vectors) = (numbers.between(1, 140), numbers.between(1, 140));
            let columns = numbers.pick(&[8, 32, 64, 200, 288]);
            // Vectors that need no rounding, so that what is left is the order of a sum.
            let x: Vec<f32> = numbers
                .normals(vectors * columns, 1.0)
                .into_iter()
                .map(|number| bf16::from_f32((number * 16.0).round() / 16.0).to_f32())
                .collect();
            for (matrix, weights) in matrices(device, &numbers.normals(rows * columns, 1.0), columns) {
                let mut expected = Vec::new();
                for x in x.chunks(columns) {
                    let product =
                        |row: &[f32]| row.iter().zip(x).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                    expected.extend(weights.chunks(columns).map(product).collect::<Vec<f64>>());
                }
                // Quantised weights are rounded to bf16 or f16 on their way.
                let size = (columns as f64).sqrt();
                assert_close(&multiply_many::<bf16>(device, &matrix, &x), &expected, 8e-3, size);
                assert_close(&multiply_many::<f16>(device, &matrix, &x), &expected, 1e-3, size);
            }
        });
    }
}

#[test]
fn many_vectors_give_the_bits_of_each() {
    let (device, mut numbers) = (&Emulator, Numbers::new(9));
    let (rows, columns, vectors) = (70, 96, 67);
    let x = numbers.normals(vectors * columns, 1.0);
    for (matrix, _) in matrices(device, &numbers.normals(rows * columns, 1.0), columns) {
        let together = multiply_many::<bf16>(device, &matrix, &x);
        for (vector, expected) in
            [0, 1, 31, 63, 64, 66].map(|at| (&x[at * columns..][..columns], &together[at * rows..][..rows]))
        {
            assert!(multiply_many::<bf16>(device, &matrix, vector) == expected);
        }
    }
}

#[test]
fn vectors_too_large_for_f16_become_its_largest_number() {
    let matrix = Matrix::f16(Emulator.put(&[f16::ONE; 64]), 64).unwrap();
    let out = multiply_many::<f16>(&Emulator, &matrix, &[1e6; 64]);
    assert!((out[0] / (65504.0 * 64.0) - 1.0).abs() < 1e-5, "{}", out[0]);
}

#[test]
fn large_numbers_stay_numbers_with_f16_weights() {
    let matrix = Matrix::f16(Emulator.put(&[f16::MAX; 64]), 64).unwrap();
    let out = multiply(&Emulator, &matrix, &[1e6; 64]);
    assert!((out[0] / (65504.0 * 64e6) - 1.0).abs() < 1e-5);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let device = &Emulator;
    assert!(Matrix::bf16(device.put(&[bf16::ONE; 24]), 12).is_err());
    assert!(Matrix::bf16(device.put(&[bf16::ONE; 24]), 16).is_err());
    assert!(Matrix::q8_0(device.put(&[0; 64]), device.put(&[f16::ONE; 3]), 32).is_err());
    let matrix = Matrix::bf16(device.put(&[bf16::ONE; 24]), 8).unwrap();
    let (x, mut out) = (device.put(&[1.0; 16]), device.room::<f32>(5));
    let refused = matrix.multiply(device, x.view(), &mut out.view_mut());
    assert!(matches!(refused, Err(DeviceError::Shape { .. })));
}
