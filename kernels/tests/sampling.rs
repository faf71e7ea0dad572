//! The choice of tokens on the device against the one on the host, which must be the same.

use codeseal_kernels::cuda::{Feedback, NO_TOKEN, SamplingBuffers, feed_back, sample_rows};
use codeseal_kernels::sampling::{RowSampler, SamplingParams, sample};

use codeseal_emulator::device::Emulator;
use codeseal_emulator::numbers::Numbers;

/// How a row chooses, and its seed.
type Row = (SamplingParams, u64);

fn chosen(device: &Emulator, logits: &[f32], positions: &[i32], rows: &[Row]) -> Vec<u32> {
    let words: Vec<u32> =
        rows.iter().flat_map(|(params, seed)| RowSampler::new(params, *seed).words()).collect();
    let (logits, positions, words) = (device.put(logits), device.put(positions), device.put(&words));
    let mut partial = device.room(SamplingBuffers::partial_numbers(rows.len()));
    let mut buffers = SamplingBuffers { samplers: words.view(), partial: partial.view_mut() };
    let mut chosen = device.room(rows.len());
    sample_rows(device, logits.view(), positions.view(), &mut buffers, &mut chosen.view_mut()).unwrap();
    chosen.read(device).unwrap()
}

fn params(numbers: &mut Numbers) -> SamplingParams {
    SamplingParams {
        temperature: numbers.pick(&[0.0, 0.01, 0.7, 1.0, 1.0, 3.0]),
        top_k: numbers.pick(&[0, 0, 1, 2, 40, 256, 257, 5000]),
        top_p: numbers.pick(&[1.0, 1.0, 0.0, 0.5, 0.95, 0.999]),
        min_p: numbers.pick(&[0.0, 0.0, 0.02, 0.5, 1.0]),
    }
}

#[test]
fn device_and_host_choose_the_same_token() {
    for round in 0..3 {
        Emulator::under_each_schedule(round, |device| {
            let mut numbers = Numbers::new(round);
            let (batch, vocabulary) = (numbers.between(1, 7), numbers.pick(&[1, 33, 1000, 3001, 4096]));
            let mut logits = numbers.normals(batch * vocabulary, 4.0);
            // Ties, zeros of both signs and extremes.
            for logit in logits.iter_mut().step_by(3) {
                *logit = logit.round();
            }
            logits[vocabulary / 2] = -0.0;
            logits[vocabulary - 1] = f32::MIN;
            let rows: Vec<Row> = (0..batch).map(|_| (params(&mut numbers), numbers.next_bits())).collect();
            let positions: Vec<i32> = (0..batch).map(|_| numbers.between(0, 8000) as i32).collect();
            let expected: Vec<u32> = logits
                .chunks(vocabulary)
                .zip(rows.iter().zip(&positions))
                .map(|(logits, ((params, seed), &position))| {
                    sample(logits, params, *seed, position as u64).unwrap()
                })
                .collect();
            assert_eq!(chosen(device, &logits, &positions, &rows), expected, "{rows:?}");
        });
    }
}

#[test]
fn many_draws_agree_under_every_filter() {
    let mut numbers = Numbers::new(11);
    let (vocabulary, draws) = (300, 24);
    let logits = numbers.normals(vocabulary, 2.0);
    let all: Vec<f32> = logits.repeat(draws);
    let positions: Vec<i32> = (0..draws as i32).collect();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let row = (SamplingParams { temperature: 1.5, ..params(&mut numbers) }, numbers.next_bits());
        let found = chosen(&Emulator, &all, &positions, &vec![row; draws]);
        let expected: Vec<u32> =
            (0..draws as u64).map(|counter| sample(&logits, &row.0, row.1, counter).unwrap()).collect();
        assert_eq!(found, expected, "{row:?}");
        seen.extend(found);
    }
    assert!(seen.len() > 10, "chance should have more to say than {seen:?}");
}

#[test]
fn logits_that_are_not_finite_choose_nothing_and_unused_rows_are_left_alone() {
    let greedy = (SamplingParams::GREEDY, 0);
    let warm = (SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY }, 0);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
        let logits = [0.0, bad, 1.0, 0.0, 2.0, 1.0];
        let found = chosen(&Emulator, &logits, &[0, 0], &[warm, greedy]);
        assert_eq!(found, [NO_TOKEN, 1]);
        assert_eq!(chosen(&Emulator, &logits, &[0, 0], &[greedy, greedy]), [NO_TOKEN, 1]);
    }
    // What is in memory before stays: all ones.
    assert_eq!(chosen(&Emulator, &[f32::NAN, f32::NAN], &[-1], &[greedy]), [u32::MAX]);
}

#[test]
fn what_was_chosen_is_the_next_input() {
    Emulator::under_each_schedule(1, |device| {
        let rows = 33;
        let mut numbers = Numbers::new(2);
        let mut positions: Vec<i32> = (0..rows).map(|_| numbers.between(0, 99) as i32).collect();
        positions[7] = -1;
        let mut tokens: Vec<u32> = (0..rows).map(|_| numbers.between(0, 999) as u32).collect();
        tokens[3] = NO_TOKEN;
        let (mut ids, mut places) = (device.put(&vec![0u32; rows]), device.put(&positions));
        let (mut history, mut step) = (device.put(&vec![0u32; 2 * rows]), device.put(&[4u32]));
        let mut feedback = Feedback {
            ids: ids.view_mut(),
            positions: places.view_mut(),
            history: history.view_mut(),
            step: step.view_mut(),
        };
        let first = device.put(&tokens);
        feed_back(device, first.view(), &mut feedback).unwrap();
        let second: Vec<u32> = tokens.iter().map(|token| token.wrapping_add(1)).collect();
        feed_back(device, device.put(&second).view(), &mut feedback).unwrap();

        assert_eq!(step.read(device).unwrap(), [6]);
        let history = history.read(device).unwrap();
        for row in 0..rows {
            let unused = row == 7 || row == 3;
            let position = if unused { -1 } else { positions[row] + 2 };
            assert_eq!(places.read(device).unwrap()[row], position);
            let expected = if unused { [NO_TOKEN, NO_TOKEN] } else { [tokens[row], second[row]] };
            assert_eq!([history[row], history[rows + row]], expected);
            assert_eq!(ids.read(device).unwrap()[row], if unused { 0 } else { second[row] });
        }
    });
}
