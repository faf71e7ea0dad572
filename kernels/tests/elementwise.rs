//! Embedding, rotary embedding and random weights against a plain implementation.

use codeseal_kernels::cuda::{HEAD, KvLayout, Matrix, Narrow, angles, draw, draw_words, repeat_words, rope};
use half::{bf16, f16};

use codeseal_emulator::device::Emulator;
use codeseal_emulator::matrices::matrices;
use codeseal_emulator::numbers::{Numbers, assert_close};
use codeseal_emulator::pages::{From32, Rows, Texts};

fn check_rope<T: Narrow + From32>(device: &Emulator, numbers: &mut Numbers, layout: KvLayout) {
    let (batch, layer) = (numbers.between(1, 12), numbers.between(0, layout.layers - 1));
    let lengths: Vec<usize> = (0..batch).map(|_| numbers.between(1, 100)).collect();
    let mut texts = Texts::<T>::new(layout, layer, &lengths, numbers);
    let slots: Vec<i32> = (0..batch as i32).collect();
    let positions: Vec<i32> = lengths
        .iter()
        .map(|&length| if numbers.next_bits().is_multiple_of(5) { -1 } else { length as i32 - 1 })
        .collect();
    let table = angles(10_000.0, 100);
    let before = numbers.normals(batch * layout.row_numbers(), 1.0);
    let rows = Rows::new(device, &texts, &slots, &positions);
    let (mut activations, mut pool) = (device.put(&before), device.put(&texts.pool));
    let table = device.put(&table);
    let (activations_view, pool_view) = (&mut activations.view_mut(), &mut pool.view_mut());
    rope(device, &rows.layer(layer), table.view(), activations_view, pool_view).unwrap();

    let mut after = before.clone();
    for row in (0..batch).filter(|row| positions[*row] >= 0) {
        let position = positions[row] as usize;
        let heads = &mut after[row * layout.row_numbers()..][..layout.row_numbers()];
        for (head, numbers) in heads.chunks_mut(HEAD).enumerate() {
            let mut turned = numbers.to_vec();
            if head < layout.heads + layout.kv_heads {
                for pair in 0..HEAD / 2 {
                    let frequency = 10_000f32.powf(2.0 * pair as f32 / HEAD as f32).recip();
                    let (sine, cosine) = (position as f32 * frequency).sin_cos();
                    let (a, b) = (numbers[pair], numbers[pair + HEAD / 2]);
                    turned[pair] = a * cosine - b * sine;
                    turned[pair + HEAD / 2] = b * cosine + a * sine;
                }
            }
            if head < layout.heads {
                numbers.copy_from_slice(&turned);
            } else {
                let at = texts.offset(layer, row, position, head - layout.heads);
                for (to, from) in texts.pool[at..at + HEAD].iter_mut().zip(turned) {
                    *to = T::from32(from);
                }
            }
        }
    }
    assert!(activations.read(device).unwrap() == after);
    // Nothing but the keys and values of these positions has changed: NaN is NaN still.
    let bits = |pool: &[T]| pool.iter().map(|number| number.to32().to_bits()).collect::<Vec<_>>();
    assert!(bits(&pool.read(device).unwrap()) == bits(&texts.pool));
}

#[test]
fn queries_and_keys_are_turned_and_keys_and_values_kept() {
    for round in 0..2 {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(round);
            check_rope::<bf16>(device, &mut numbers, KvLayout { layers: 2, heads: 8, kv_heads: 1 });
            check_rope::<f16>(device, &mut numbers, KvLayout { layers: 1, heads: 2, kv_heads: 2 });
        });
    }
}

#[test]
fn a_position_beyond_the_angles_stops_the_device() {
    let (device, layout) = (&Emulator, KvLayout { layers: 1, heads: 1, kv_heads: 1 });
    let texts = Texts::<bf16>::new(layout, 0, &[40], &mut Numbers::new(1));
    let rows = Rows::new(device, &texts, &[0], &[39]);
    let (mut activations, mut pool) = (device.put(&vec![0.0; layout.row_numbers()]), device.put(&texts.pool));
    for (positions, fits) in [(40, true), (39, false)] {
        let table = device.put(&angles(10_000.0, positions));
        let (activations, pool) = (&mut activations.view_mut(), &mut pool.view_mut());
        let result = rope(device, &rows.layer(0), table.view(), activations, pool);
        assert_eq!(result.is_ok(), fits);
    }
}

fn check_embedding<T: Narrow + From32>(device: &Emulator, numbers: &mut Numbers) {
    let (vocabulary, width, batch) = (50, numbers.pick(&[8, 96, 256, 768, 1056]), numbers.between(1, 33));
    let mut ids: Vec<u32> = (0..batch).map(|_| numbers.between(0, vocabulary - 1) as u32).collect();
    let mut positions: Vec<i32> = (0..batch as i32).collect();
    // A row that is not in use may hold anything.
    ids.push(u32::MAX);
    positions.push(-1);
    let (ids_there, positions) = (device.put(&ids), device.put(&positions));
    for (matrix, weights) in matrices::<T>(device, numbers, vocabulary, width) {
        let mut out = device.room::<f32>((batch + 1) * width);
        matrix.embed(device, ids_there.view(), positions.view(), 16.0, &mut out.view_mut()).unwrap();
        let mut expected: Vec<f64> = Vec::new();
        for id in &ids[..batch] {
            let row = &weights[*id as usize * width..][..width];
            expected.extend(row.iter().map(|&weight| f64::from(weight) * 16.0));
        }
        expected.extend(vec![0.0; width]);
        // Weights are exact, but for the subtraction of a minimum.
        assert_close(&out.read(device).unwrap(), &expected, 1e-6, 16.0);
    }
}

#[test]
fn tokens_become_their_rows() {
    for round in 4..6 {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(round);
            check_embedding::<bf16>(device, &mut numbers);
            check_embedding::<f16>(device, &mut numbers);
        });
    }
}

#[test]
fn a_token_outside_the_vocabulary_stops_the_device() {
    let matrix = Matrix::plain(Emulator.put(&[bf16::ONE; 16]), 8).unwrap();
    let mut out = Emulator.room::<f32>(8);
    for (id, fits) in [(1, true), (2, false), (u32::MAX, false)] {
        let (ids, positions) = (Emulator.put(&[id]), Emulator.put(&[0]));
        let embedded = matrix.embed(&Emulator, ids.view(), positions.view(), 1.0, &mut out.view_mut());
        assert_eq!(embedded.is_ok(), fits);
    }
}

fn check_draw<T: Narrow + From32>() {
    let drawn = |seed| {
        let mut numbers = Emulator.room::<T>(4008);
        draw(&Emulator, 0.25, seed, &mut numbers.view_mut()).unwrap();
        numbers.read(&Emulator).unwrap().into_iter().map(T::to32).collect::<Vec<f32>>()
    };
    let numbers = drawn(1);
    assert!(numbers.iter().all(|number| number.abs() <= 0.25));
    // The standard error of the mean is 0.25 / sqrt(3) / sqrt(4008); five times that is hardly ever exceeded.
    let mean = numbers.iter().sum::<f32>() / numbers.len() as f32;
    assert!(mean.abs() < 0.012, "{mean}");
    assert!(numbers.iter().any(|number| number.abs() > 0.24));
    assert_eq!(numbers, drawn(1));
    let same = numbers.iter().zip(drawn(2)).filter(|(a, b)| *a == b).count();
    assert!(same < 100, "{same} are the same with another seed");
}

#[test]
fn numbers_are_drawn_evenly_and_again_with_the_same_seed() {
    check_draw::<bf16>();
    check_draw::<f16>();
    let mut refused = Emulator.room::<bf16>(12);
    assert!(draw(&Emulator, 1.0, 1, &mut refused.view_mut()).is_err());
    let mut words = Emulator.room::<u32>(999);
    draw_words(&Emulator, 7, &mut words.view_mut()).unwrap();
    let words = words.read(&Emulator).unwrap();
    // Of each bit about half are set: 500, give or take five times 16.
    for bit in 0..32 {
        let set = words.iter().filter(|word| *word >> bit & 1 == 1).count();
        assert!((420..580).contains(&set), "bit {bit}: {set}");
    }
}

#[test]
fn four_words_are_repeated() {
    let mut words = Emulator.room::<u32>(270);
    repeat_words(&Emulator, [1, 2, 3, 4], &mut words.view_mut()).unwrap();
    let words = words.read(&Emulator).unwrap();
    assert!(words.iter().enumerate().all(|(at, word)| *word as usize == at % 4 + 1));
}
