//! The same sampler in the steps of `cuda/sample.cu`, one token after the other: what the fast one is held against.

use super::{ONE, RowSampler, philox, share};

pub(super) fn choose(logits: &[f32], sampler: &RowSampler, counter: u64) -> Option<u32> {
    let best = argmax(logits)?;
    if sampler.inverse_temperature == 0.0 {
        return Some(best);
    }
    let largest = logits.get(best as usize)?;
    let mut tokens: Vec<Token> = logits
        .iter()
        .map(|&logit| Token {
            key: order(logit),
            weight: weigh(logit, *largest, sampler.inverse_temperature),
        })
        .collect();
    if sampler.top_k > 0 {
        let least = threshold(&tokens, u64::from(sampler.top_k), |_| 1);
        keep(&mut tokens, |token| token.key >= least);
    }
    if sampler.top_p != u64::MAX {
        let least = threshold(&tokens, share(total(&tokens), sampler.top_p).max(1), |token| token.weight);
        keep(&mut tokens, |token| token.key >= least);
    }
    keep(&mut tokens, |token| token.weight >= sampler.least_weight);
    let mut rest = share(philox(sampler.seed, counter), total(&tokens));
    for (id, token) in (0..).zip(&tokens) {
        if token.weight > rest {
            return Some(id);
        }
        rest -= token.weight;
    }
    // What is drawn is less than the total, and the most likely token is never left out.
    None
}

/// The token of the largest logit, the first of several; none if one of them is not a finite number.
fn argmax(logits: &[f32]) -> Option<u32> {
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
pub(super) fn weigh(logit: f32, largest: f32, inverse_temperature: f32) -> u64 {
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
