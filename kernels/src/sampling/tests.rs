use super::weights::{BLOCK, Scale, Weights, find_peaks};
use super::*;

const HOT: SamplingParams = SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY };

fn drawn(logits: &[f32], params: SamplingParams, seed: u64) -> Vec<u32> {
    (0..64).map(|counter| sample(logits, &params, seed, counter).unwrap()).collect()
}

#[test]
fn the_generator_is_philox() {
    // The known answers of the paper's authors for 4x32 and 10 rounds, as far as they go into 64 bits.
    assert_eq!(philox(0, 0), 0xE169_C58D_6627_E8D5);
}

#[test]
fn weights_are_exponentials() {
    let steps: Vec<f32> = (0..2800).map(|step| step as f32 * -0.01).collect();
    for (&x, weight) in steps.iter().zip(weights(Level::best(), &steps, 1.0)) {
        let expected = f64::from(x).exp() * f64::from(ONE);
        let off = (weight as f64 - expected).abs();
        assert!(off <= 1.0 + 1e-6 * expected, "{x}: off by {off}");
    }
    assert_eq!(weights(Level::best(), &[0.0], 1e5), [1 << 40]);
    assert_eq!(weights(Level::best(), &[f32::MAX, f32::MIN], 1e5), [1 << 40, 0]);
}

/// All of it, as far as an eight-hundredth of the numbers goes.
#[test]
fn every_level_weighs_alike_to_the_last_bit() {
    let least = (-29.0f32).to_bits();
    let logits: Vec<f32> =
        std::iter::once(0.0).chain((1 << 31..=least).step_by(797).map(f32::from_bits)).collect();
    for level in Level::available() {
        for (&logit, weight) in logits.iter().zip(weights(level, &logits, 1.0)) {
            assert_eq!(weight, reference::weigh(logit, 0.0, 1.0), "{level:?}: {logit}");
        }
    }
}

/// What `logits` weigh, the sums of blocks being right.
fn weights(level: Level, logits: &[f32], inverse_temperature: f32) -> Vec<u64> {
    let (mut peaks, mut weights) = (Vec::new(), Weights::default());
    find_peaks(level, logits, &mut peaks);
    let largest = peaks.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = Scale { largest, inverse_temperature, least: f32::NEG_INFINITY, least_weight: 0.0 };
    weights.weigh(level, logits, &peaks, scale);
    let tokens: Vec<u64> = weights.tokens.iter().map(|&weight| weight as u64).collect();
    let sums: Vec<u64> = tokens.chunks(BLOCK).map(|block| block.iter().sum()).collect();
    assert_eq!(weights.blocks, sums);
    tokens
}

/// A number below `end`, from one that counts up.
fn dice(state: &mut u64, end: usize) -> usize {
    *state += 1;
    (philox(0xD1CE, *state) % end as u64) as usize
}

/// Logits as models have them, and as nothing has them: far apart, all the same, many of a kind, or at the ends.
fn row(state: &mut u64) -> Vec<f32> {
    let count = [1, 2, 17, 255, 256, 257, 1000, 4096, 5003][dice(state, 9)];
    let size = [0.0, 1e-3, 1.0, 4.0, 30.0, 1e30][dice(state, 6)];
    let grain = [0, 0, 1, 4][dice(state, 4)];
    let mut logits: Vec<f32> = (0..count)
        .map(|_| {
            let sum: f32 = (0..6).map(|_| dice(state, 1 << 24) as f32 / (1 << 24) as f32 - 0.5).sum();
            let logit = sum * size;
            if grain > 0 { (logit * grain as f32).round() / grain as f32 } else { logit }
        })
        .collect();
    for _ in 0..dice(state, 4) {
        logits[dice(state, count)] =
            [f32::MIN, f32::MAX, -0.0, 0.0, f32::MIN_POSITIVE, 1e-45][dice(state, 6)];
    }
    logits
}

fn params(state: &mut u64) -> SamplingParams {
    let mut pick = |from: &[f32]| from[dice(state, from.len())];
    SamplingParams {
        temperature: pick(&[0.0, 1e-5, 0.01, 0.7, 0.8, 1.0, 1.5, 2.0, 1e3, f32::MAX, f32::INFINITY]),
        top_p: pick(&[1.0, 1.0, 0.0, -1.0, 1e-9, 0.3, 0.5, 0.9, 0.95, 0.999, 0.999_999_94, 2.0, f32::NAN]),
        min_p: pick(&[0.0, 0.0, 0.0, 1e-12, 0.02, 0.3, 0.999_999, 1.0, 7.0, -1.0, f32::NAN]),
        top_k: pick(&[0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 40.0, 255.0, 256.0, 257.0, 3000.0, 5003.0, 4e9]) as u32,
    }
}

#[test]
fn what_is_chosen_is_what_the_kernel_s_steps_choose() {
    let mut state = 0;
    // Memory that is kept from one row to the next, of whatever size.
    let mut kept: Vec<Scratch> =
        Level::available().map(|level| Scratch { level, ..Scratch::default() }).collect();
    for round in 0..1500 {
        let (logits, params, seed) = (row(&mut state), params(&mut state), round);
        let sampler = RowSampler::new(&params, seed);
        for counter in [0, 1, u64::MAX] {
            let expected = reference::choose(&logits, &sampler, counter);
            assert!(expected.is_some());
            for scratch in &mut kept {
                let chosen = sample_row(&logits, &sampler, counter, scratch);
                assert_eq!(chosen, expected, "{:?}, {} logits, {params:?}", scratch.level, logits.len());
            }
        }
    }
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    for temperature in [0.0, -1.0, 1e-9, f32::NAN] {
        let params = SamplingParams { temperature, ..HOT };
        assert_eq!(drawn(&[0.0, 3.0, -1.0, 3.0], params, 7), [1; 64]);
    }
    assert_eq!(drawn(&[-0.0, 0.0], SamplingParams::GREEDY, 7), [0; 64]);
    let mut scratch = Scratch::default();
    for length in (1..50).chain([255, 256, 257, 600]) {
        for place in 0..length {
            let mut logits = vec![-1.0; length];
            logits[place..].fill(-0.5);
            assert_eq!(argmax(&logits, &mut scratch), Some(place as u32));
        }
    }
}

#[test]
fn what_is_not_a_number_is_refused_wherever_it_stands() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for level in Level::available() {
            let mut scratch = Scratch { level, ..Scratch::default() };
            for place in (0..19).chain(250..275) {
                let mut logits = vec![1.0; if place < 19 { 19 } else { 275 }];
                logits[place] = bad;
                for params in [SamplingParams::GREEDY, HOT] {
                    assert_eq!(
                        sample_row(&logits, &RowSampler::new(&params, 1), 1, &mut scratch),
                        None,
                        "{bad} at {place}"
                    );
                }
            }
        }
    }
    assert_eq!(sample(&[], &HOT, 1, 1), None);
    assert_eq!(argmax(&[], &mut Scratch::default()), None);
}

#[test]
fn tokens_are_as_frequent_as_they_are_likely() {
    let logits = [1.0, 0.0, 2.0, -1.0];
    let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let mut counts = [0u32; 4];
    for counter in 0..40_000 {
        counts[sample(&logits, &HOT, 3, counter).unwrap() as usize] += 1;
    }
    for (count, logit) in counts.into_iter().zip(logits) {
        let expected = f64::from(logit).exp() / total;
        assert!((f64::from(count) / 40_000.0 - expected).abs() < 0.01, "{counts:?}");
    }
}

#[test]
fn a_seed_repeats_itself_and_another_differs() {
    let logits = [1.0, 1.1, 0.9, 1.0];
    assert_eq!(drawn(&logits, HOT, 7), drawn(&logits, HOT, 7));
    assert_ne!(drawn(&logits, HOT, 7), drawn(&logits, HOT, 8));
}

#[test]
fn filters_leave_the_unlikely_out() {
    let logits = [0.0, 4.0, 2.0, 3.0, 1.0];
    let by_rank = [1, 3, 2, 4, 0];
    let hot = SamplingParams { temperature: 4.0, ..HOT };
    for (params, allowed) in [
        (SamplingParams { top_k: 1, ..hot }, 1),
        (SamplingParams { top_k: 2, ..hot }, 2),
        (SamplingParams { top_p: 0.0, ..hot }, 1),
        (SamplingParams { top_p: 0.5, ..hot }, 2),
        (SamplingParams { top_k: 2, top_p: 0.1, ..hot }, 1),
        (SamplingParams { min_p: 0.7, ..hot }, 2),
        (SamplingParams { min_p: 2.0, ..hot }, 1),
        (SamplingParams { top_k: 4, min_p: 0.5, ..hot }, 3),
        (SamplingParams { top_k: 99, top_p: f32::NAN, min_p: f32::NAN, ..hot }, 5),
    ] {
        let mut seen = drawn(&logits, params, 5);
        seen.sort_unstable();
        seen.dedup();
        let mut expected = by_rank[..allowed].to_vec();
        expected.sort_unstable();
        assert_eq!(seen, expected, "{params:?}");
    }
}
