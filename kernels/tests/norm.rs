//! Residual and norm against the textbook.

use codeseal_kernels::cuda::{DeviceError, Narrow, add_rms_norm};
use half::{bf16, f16};

use codeseal_emulator::device::Emulator;
use codeseal_emulator::numbers::{Numbers, assert_close};

fn check<T: Narrow + Into<f32>>(device: &Emulator, numbers: &mut Numbers, tolerance: f64) {
    let (rows, width) = (numbers.between(1, 33), 8 * numbers.pick(&[1, 3, 8, 33, 256, 384, 1024]));
    let with_delta = numbers.next_bits().is_multiple_of(4);
    let (x, delta) = (numbers.normals(rows * width, 3.0), numbers.normals(rows * width, 1.0));
    let scale = numbers.normals(width, 0.3);
    let (mut stream, added, scales) = (device.put(&x), device.put(&delta), device.put(&scale));
    let mut out = device.room::<T>(rows * width);
    let delta = if with_delta { delta } else { vec![0.0; rows * width] };
    let added = with_delta.then(|| added.view());
    add_rms_norm(device, &mut stream.view_mut(), added, scales.view(), None, 1e-6, &mut out.view_mut())
        .unwrap();

    let sums: Vec<f32> = x.iter().zip(&delta).map(|(x, delta)| x + delta).collect();
    assert_eq!(stream.read(device).unwrap(), sums);
    let mut expected = Vec::new();
    for row in sums.chunks(width) {
        let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
        let root = (squares / width as f64 + 1e-6).sqrt();
        expected.extend(row.iter().zip(&scale).map(|(&x, &s)| f64::from(x) / root * (1.0 + f64::from(s))));
    }
    let out: Vec<f32> = out.read(device).unwrap().into_iter().map(Into::into).collect();
    assert_close(&out, &expected, tolerance, 1e-3);
}

#[test]
fn rows_are_summed_and_normed() {
    for round in 0..3 {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(round);
            check::<bf16>(device, &mut numbers, 1.0 / 250.0);
            check::<f16>(device, &mut numbers, 1.0 / 2000.0);
        });
    }
}

#[test]
fn some_rows_are_normed_and_the_others_left_alone() {
    let (device, mut numbers) = (&Emulator, Numbers::new(4));
    let (rows, width) = (5, 64);
    let (x, delta, scale) =
        (numbers.normals(rows * width, 2.0), numbers.normals(rows * width, 1.0), numbers.normals(width, 0.3));
    let norm = |which: Option<&[i32]>| {
        let (mut stream, delta, scale) = (device.put(&x), device.put(&delta), device.put(&scale));
        let list = which.map(|which| device.put(which));
        let mut out = device.room::<f16>(which.map_or(rows, <[_]>::len) * width);
        let (delta, view) = (Some(delta.view()), list.as_ref().map(|list| list.view()));
        add_rms_norm(device, &mut stream.view_mut(), delta, scale.view(), view, 1e-6, &mut out.view_mut())?;
        Ok::<_, DeviceError>((out.read(device)?, stream.read(device)?))
    };
    let (all, sums) = norm(None).unwrap();
    let (some, stream) = norm(Some(&[4, 1])).unwrap();
    assert!(some == [&all[4 * width..], &all[width..2 * width]].concat());
    for row in 0..rows {
        let expected = if [4, 1].contains(&row) { &sums } else { &x };
        assert_eq!(stream[row * width..][..width], expected[row * width..][..width]);
    }
    for outside in [-1, 5] {
        assert!(norm(Some(&[outside])).is_err());
    }
}

#[test]
fn what_is_too_large_for_f16_becomes_its_largest_number() {
    let device = &Emulator;
    let mut stream = device.put(&[1e30, -1e30, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let scale = device.put(&[1e6; 8]);
    let mut out = device.room::<f16>(8);
    add_rms_norm(device, &mut stream.view_mut(), None, scale.view(), None, 1e-6, &mut out.view_mut())
        .unwrap();
    // The square of 1e30 is no f32: the norm is of infinity, and nothing must be NaN for that.
    assert!(out.read(device).unwrap().iter().all(|x| x.is_finite()));
    let mut stream = device.put(&[3e4, -3e4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    add_rms_norm(device, &mut stream.view_mut(), None, scale.view(), None, 1e-6, &mut out.view_mut())
        .unwrap();
    assert_eq!(out.read(device).unwrap()[..2], [f16::MAX, f16::MIN]);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let device = &Emulator;
    let (mut stream, scale, mut out) =
        (device.put(&[0.0; 24]), device.put(&[0.0; 12]), device.room::<bf16>(24));
    for (width, length) in [(12, 24), (8, 16), (0, 24)] {
        let scale = scale.view().part(0..width).unwrap();
        let mut out = out.view_mut().part(0..length).unwrap();
        let refused = add_rms_norm(device, &mut stream.view_mut(), None, scale, None, 1e-6, &mut out);
        assert!(matches!(refused, Err(DeviceError::Shape { .. })), "{refused:?}");
    }
    assert!(scale.view().part(4..13).is_err());
    assert!(out.write(device, 20, &[bf16::ONE; 5]).is_err());
}
