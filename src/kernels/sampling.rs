//! Chooses a token among logits, by chance or not, the same on every processor.
//!
//! `cuda/sample.cu` takes the same steps on a GPU, and for the same logits chooses the same token. So nothing may depend
//! on an order of additions or on a library's exponential: probabilities are whole numbers, 2^40 for the likeliest
//! token, made by f32 operations that are rounded alike everywhere; sums of them are exact. Chance is a counter-based
//! generator: what is drawn depends on the seed and the place in the text, not on what was drawn before.
//!
//! Must not touch: where logits come from.

/// Below this temperature every probability but one rounds to nothing, and dividing by it overflows.
const MIN_TEMPERATURE: f32 = 1e-5;
/// The weight of the likeliest token.
const ONE: f32 = 1_099_511_627_776.0;

/// How a token is chosen among the model's probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 always takes the likeliest token, the first of several.
    pub temperature: f32,
    /// Considers only so many of the likeliest tokens, and those as likely as the last of them; 0 considers all.
    pub top_k: u32,
    /// Of those, considers only the likeliest that together have this probability; 1 considers all.
    pub top_p: f32,
    /// Of those, considers only what has at least this share of the likeliest token's probability; 0 considers all.
    pub min_p: f32,
}

impl SamplingParams {
    /// Always the likeliest token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
}

/// [`SamplingParams`] and a seed, as the steps want them.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// 0 for the likeliest token.
    inverse_temperature: f32,
    top_k: u32,
    /// A fraction of 2^64; all ones for all.
    top_p: u64,
    least_weight: u64,
    seed: u64,
}

impl Choice {
    /// How to choose by `params`, with chance from `seed`.
    pub fn new(params: &SamplingParams, seed: u64) -> Self {
        let SamplingParams { temperature, top_k, top_p, min_p } = *params;
        let inverse_temperature = if temperature >= MIN_TEMPERATURE { temperature.recip() } else { 0.0 };
        // Casts of floats saturate, and make 0 of what is not a number.
        let min_p = if min_p.is_nan() { 0.0 } else { min_p.min(1.0) };
        let fraction = (f64::from(top_p) * 2f64.powi(64)) as u64;
        Self {
            inverse_temperature,
            top_k,
            top_p: if top_p.is_nan() { u64::MAX } else { fraction },
            least_weight: (f64::from(min_p) * f64::from(ONE)).ceil() as u64,
            seed,
        }
    }

    /// As the kernel reads it.
    pub fn words(self) -> [u32; 8] {
        let wide = |number: u64| [number as u32, (number >> 32) as u32];
        let [[a, b], [c, d], [e, f]] = [self.top_p, self.least_weight, self.seed].map(wide);
        [self.inverse_temperature.to_bits(), self.top_k, a, b, c, d, e, f]
    }
}

/// The token that follows, or none if the logits are not all finite. `counter` is its place in the text: with the same
/// seed, another place draws anew.
pub fn sample(logits: &[f32], params: &SamplingParams, seed: u64, counter: u64) -> Option<u32> {
    choose(logits, &Choice::new(params, seed), counter)
}

fn choose(logits: &[f32], choice: &Choice, counter: u64) -> Option<u32> {
    let likeliest = likeliest(logits)?;
    if choice.inverse_temperature == 0.0 {
        return Some(likeliest);
    }
    let largest = logits.get(likeliest as usize)?;
    let mut tokens: Vec<Token> = logits
        .iter()
        .map(|&logit| Token { key: order(logit), weight: weigh(logit, *largest, choice.inverse_temperature) })
        .collect();
    if choice.top_k > 0 {
        let least = threshold(&tokens, u64::from(choice.top_k), |_| 1);
        keep(&mut tokens, |token| token.key >= least);
    }
    if choice.top_p != u64::MAX {
        let least = threshold(&tokens, share(total(&tokens), choice.top_p).max(1), |token| token.weight);
        keep(&mut tokens, |token| token.key >= least);
    }
    keep(&mut tokens, |token| token.weight >= choice.least_weight);
    let mut rest = share(philox(choice.seed, counter), total(&tokens));
    for (id, token) in (0..).zip(&tokens) {
        if token.weight > rest {
            return Some(id);
        }
        rest -= token.weight;
    }
    // What is drawn is less than the total, and the likeliest token is never left out.
    None
}

/// The token of the largest logit, the first of several; none if one of them is not a finite number.
fn likeliest(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in (0..).zip(logits) {
        if !logit.is_finite() {
            return None;
        }
        if best.is_none_or(|(_, largest)| logit > largest) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| id)
}

/// A token's logit as a number that is larger for larger ones, and its probability.
struct Token {
    key: u32,
    weight: u64,
}

fn keep(tokens: &mut [Token], condition: impl Fn(&Token) -> bool) {
    tokens.iter_mut().filter(|token| !condition(token)).for_each(|token| token.weight = 0);
}

fn total(tokens: &[Token]) -> u64 {
    tokens.iter().map(|token| token.weight).sum()
}

/// `whole` · `fraction` / 2^64
fn share(whole: u64, fraction: u64) -> u64 {
    ((u128::from(whole) * u128::from(fraction)) >> 64) as u64
}

/// The two zeros are one.
fn order(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// The key such that tokens of at least that key come to `target`, and of no larger one do: eight bits at a time.
fn threshold(tokens: &[Token], mut target: u64, amount: impl Fn(&Token) -> u64) -> u32 {
    let mut prefix = 0;
    for shift in [24, 16, 8, 0] {
        let mut bins = [0u64; 256];
        for token in tokens.iter().filter(|token| shift == 24 || token.key >> (shift + 8) == prefix) {
            bins[(token.key >> shift & 255) as usize] += amount(token);
        }
        let mut digit = 255;
        while digit > 0 && bins[digit] < target {
            target -= bins[digit];
            digit -= 1;
        }
        prefix = prefix << 8 | digit as u32;
    }
    prefix
}

/// exp((logit - largest) / temperature), as a share of [`ONE`] that is rounded down.
#[allow(clippy::suboptimal_flops, reason = "a fused operation would round otherwise than the GPU does")]
fn weigh(logit: f32, largest: f32, inverse_temperature: f32) -> u64 {
    let x = (logit - largest) * inverse_temperature;
    if x.is_nan() || x <= -28.0 {
        return 0;
    }
    let whole = (x * std::f32::consts::LOG2_E + 0.5).floor();
    // ln 2 in two parts, the first so short that its multiples are exact.
    let rest = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let mut sum = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        sum = sum * rest + coefficient;
    }
    let power = sum * rest * rest + rest + 1.0;
    let scale = f32::from_bits(((127 + whole as i32) as u32) << 23);
    (power * scale * ONE) as u64
}

/// The Philox 4x32-10 generator (Salmon et al., 2011): 64 bits for each key and counter.
fn philox(key: u64, counter: u64) -> u64 {
    let wide = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    let (mut key0, mut key1) = (key as u32, (key >> 32) as u32);
    let mut words = [counter as u32, (counter >> 32) as u32, 0, 0];
    for _ in 0..10 {
        let (high0, low0) = wide(0xD251_1F53, words[0]);
        let (high1, low1) = wide(0xCD9E_8D57, words[2]);
        words = [high1 ^ words[1] ^ key0, low1, high0 ^ words[3] ^ key1, low0];
        key0 = key0.wrapping_add(0x9E37_79B9);
        key1 = key1.wrapping_add(0xBB67_AE85);
    }
    u64::from(words[1]) << 32 | u64::from(words[0])
}

#[cfg(test)]
mod tests {
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
        for step in 0..2800 {
            let x = step as f32 * -0.01;
            let expected = f64::from(x).exp() * f64::from(ONE);
            let off = (weigh(x, 0.0, 1.0) as f64 - expected).abs();
            assert!(off <= 1.0 + 1e-6 * expected, "{x}: off by {off}");
        }
        assert_eq!(weigh(0.0, 0.0, 1e5), 1 << 40);
        assert_eq!(weigh(f32::MIN, f32::MAX, 1e5), 0);
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        for temperature in [0.0, -1.0, 1e-9, f32::NAN] {
            let params = SamplingParams { temperature, ..HOT };
            assert_eq!(drawn(&[0.0, 3.0, -1.0, 3.0], params, 7), [1; 64]);
        }
        assert_eq!(drawn(&[-0.0, 0.0], SamplingParams::GREEDY, 7), [0; 64]);
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for params in [SamplingParams::GREEDY, HOT] {
                assert_eq!(sample(&[0.0, bad, 1.0], &params, 1, 1), None);
                assert_eq!(sample(&[], &params, 1, 1), None);
            }
        }
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
}
