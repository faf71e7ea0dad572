//! Chooses a token among the model's logits.
//!
//! In the order in which the `transformers` library does it: repetition penalty, temperature, top-k, top-p, min-p.
//! The random number for a token depends on the seed and on where in the text the token stands, on nothing else: so
//! it does not matter in which batch a request was, or what was guessed.
//!
//! Must not touch: the model.

use super::{Logprobs, Sampling};
use crate::kernels::sampling::{Choice, SamplingParams};
use crate::tokenizer::TokenId;

/// Below this temperature every probability but one rounds to nothing, and dividing by it overflows.
const MIN_TEMPERATURE: f64 = 1e-5;
/// How many of the likeliest tokens are looked at first for a nucleus; twice as many each time that is too few.
const NUCLEUS: usize = 256;

/// Chooses tokens for one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    logprobs: Option<usize>,
}

/// Memory that is kept from one choice to the next.
#[derive(Default)]
pub(super) struct Scratch {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
}

/// A token, and its logit divided by the temperature, or later its share of the probability.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    weight: f64,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling, logprobs: Option<usize>) -> Self {
        Self { sampling, logprobs }
    }

    /// How a device may choose in this one's place. None if it cannot: it knows neither the text nor what is likely.
    pub(super) fn choice(&self) -> Option<Choice> {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed } = self.sampling;
        if self.logprobs.is_some() || repetition_penalty != 1.0 {
            return None;
        }
        let params = SamplingParams {
            temperature: if temperature.is_nan() { 0.0 } else { temperature as f32 },
            top_k: top_k.map_or(0, |k| u32::try_from(k).unwrap_or(u32::MAX)),
            top_p: top_p.map_or(1.0, |p| p as f32),
            min_p: min_p.map_or(0.0, |p| p as f32),
        };
        Some(Choice::new(&params, seed))
    }

    /// Chooses the token that follows `text`, or none if the logits are not numbers.
    pub(super) fn sample(&self, logits: &[f32], text: &[TokenId], scratch: &mut Scratch) -> Option<TokenId> {
        let Sampling { temperature, repetition_penalty, .. } = self.sampling;
        let likeliest = likeliest(logits)?;
        let Scratch { logits: penalised, candidates } = scratch;
        let (logits, likeliest) = if repetition_penalty == 1.0 {
            (logits, likeliest)
        } else {
            penalise(logits, text, repetition_penalty as f32, penalised);
            (penalised.as_slice(), self::likeliest(penalised)?)
        };
        if temperature.is_nan() || temperature < MIN_TEMPERATURE {
            return Some(likeliest);
        }
        let largest = f64::from(*logits.get(likeliest.0 as usize)?);
        candidates.clear();
        candidates.extend(
            (0..)
                .zip(logits)
                .map(|(id, &logit)| Candidate { id, weight: (f64::from(logit) - largest) / temperature }),
        );
        self.cut(candidates);
        Some(draw(candidates, uniform(self.sampling.seed, text.len() as u64)).unwrap_or(likeliest))
    }

    /// How likely `token` was, and the likeliest ones, if the request wants to know. Of the logits as the model gave them.
    pub(super) fn logprobs(&self, logits: &[f32], token: TokenId) -> Option<Box<Logprobs>> {
        let count = self.logprobs?;
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
        let logprob = |logit: f32| (f64::from(logit - largest) - total.ln()) as f32;
        let mut order: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        let by_likelihood = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if count < order.len() {
            order.select_nth_unstable_by(count, by_likelihood);
            order.truncate(count);
        }
        order.sort_unstable_by(by_likelihood);
        Some(Box::new(Logprobs {
            chosen: logits.get(token.0 as usize).copied().map(logprob)?,
            likeliest: order.into_iter().map(|(id, logit)| (TokenId(id), logprob(logit))).collect(),
        }))
    }

    /// Leaves the candidates that may be drawn, with their share of the probability.
    fn cut(&self, candidates: &mut Vec<Candidate>) {
        let Sampling { top_k, top_p, min_p, .. } = self.sampling;
        if let Some(k) = top_k.filter(|&k| k > 0 && k < candidates.len()) {
            candidates.select_nth_unstable_by(k, likelier);
            candidates.truncate(k);
        }
        for candidate in candidates.iter_mut() {
            candidate.weight = candidate.weight.exp();
        }
        if let Some(p) = top_p.filter(|&p| p < 1.0) {
            nucleus(candidates, p);
        }
        if let Some(p) = min_p {
            // The likeliest weighs 1.
            candidates.retain(|candidate| candidate.weight >= p);
        }
    }
}

/// The token of the largest logit, the first of several; none if one of them is not a number.
pub(super) fn likeliest(logits: &[f32]) -> Option<TokenId> {
    // Sixteen at a time, so that the compiler uses the machine's vectors.
    let (lanes, rest) = logits.as_chunks::<16>();
    let (mut largest, mut finite) = ([f32::NEG_INFINITY; 16], [0.0f32; 16]);
    for lane in lanes {
        for ((largest, finite), &logit) in largest.iter_mut().zip(&mut finite).zip(lane) {
            *largest = if logit > *largest { logit } else { *largest };
            // Nothing for what is finite, and never nothing again after what is not.
            *finite += logit * 0.0;
        }
    }
    let largest = largest.iter().chain(rest).fold(f32::NEG_INFINITY, |largest, &logit| largest.max(logit));
    if logits.is_empty() || !finite.iter().all(|&sum| sum == 0.0) || !rest.iter().all(|x| x.is_finite()) {
        return None;
    }
    logits.iter().position(|&logit| logit == largest).map(|id| TokenId(id as u32))
}

/// Makes the tokens of `text` less likely: CTRL (Keskar et al. 2019), section 4.1.
fn penalise(logits: &[f32], text: &[TokenId], penalty: f32, to: &mut Vec<f32>) {
    to.clear();
    to.extend_from_slice(logits);
    for token in text {
        // From the unpenalised logit: a token counts once however often it occurred.
        if let (Some(to), Some(&logit)) = (to.get_mut(token.0 as usize), logits.get(token.0 as usize)) {
            *to = if logit > 0.0 { logit / penalty } else { logit * penalty };
        }
    }
}

fn likelier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.weight.total_cmp(&a.weight).then(a.id.cmp(&b.id))
}

/// Leaves the likeliest candidates that together have the share `p`: at least one.
fn nucleus(candidates: &mut Vec<Candidate>, p: f64) {
    let enough = p * candidates.iter().map(|candidate| candidate.weight).sum::<f64>();
    let mut looked_at = NUCLEUS.min(candidates.len());
    loop {
        if looked_at < candidates.len() {
            candidates.select_nth_unstable_by(looked_at, likelier);
        }
        let head = candidates.get_mut(..looked_at).unwrap_or_default();
        head.sort_unstable_by(likelier);
        let mut sum = 0.0;
        let inside = head.iter().take_while(|candidate| {
            let before = sum;
            sum += candidate.weight;
            before < enough
        });
        let inside = inside.count();
        if inside < looked_at || looked_at == candidates.len() {
            candidates.truncate(inside.max(1));
            return;
        }
        looked_at = (2 * looked_at).min(candidates.len());
    }
}

/// The candidate in whose part of the whole `at`, between 0 and 1, falls.
fn draw(candidates: &[Candidate], at: f64) -> Option<TokenId> {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let mut left = at * total;
    let drawn = candidates.iter().find(|candidate| {
        left -= candidate.weight;
        left < 0.0
    });
    // Rounding may leave a little: the last one with a part takes it.
    drawn
        .or(candidates.iter().rfind(|candidate| candidate.weight > 0.0))
        .map(|candidate| TokenId(candidate.id))
}

/// A number from 0 to below 1 for the place `counter`: two rounds of SplitMix64 (Steele et al. 2014).
fn uniform(seed: u64, counter: u64) -> f64 {
    let mix = |value: u64| {
        let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    };
    (mix(mix(seed) ^ counter) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chosen at 64 places.
    fn sample(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        let (sampler, mut scratch) = (Sampler::new(sampling, None), Scratch::default());
        let text = [TokenId(9999); 64];
        (0..64).map(|place| sampler.sample(logits, &text[..place], &mut scratch).unwrap().0).collect()
    }

    fn hot(top_k: Option<usize>, top_p: Option<f64>) -> Sampling {
        Sampling { temperature: 2.0, top_k, top_p, seed: 7, ..Sampling::GREEDY }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(sample(Sampling::GREEDY, &[0.0, 3.0, -1.0, 3.0]), [1; 64]);
        for temperature in [-1.0, f64::NAN, 1e-9] {
            assert_eq!(sample(Sampling { temperature, ..Sampling::GREEDY }, &[0.0, 3.0]), [1; 64]);
        }
        for length in 1..50 {
            for place in 0..length {
                let mut logits = vec![-1.0; length];
                logits[place] = -0.5;
                assert_eq!(likeliest(&logits), Some(TokenId(place as u32)));
            }
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused_wherever_it_stands() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for sampling in [Sampling::GREEDY, hot(None, None)] {
                for place in 0..19 {
                    let mut logits = [1.0; 19];
                    logits[place] = bad;
                    let chosen = Sampler::new(sampling, None).sample(&logits, &[], &mut Scratch::default());
                    assert_eq!(chosen, None);
                }
            }
        }
        assert_eq!(likeliest(&[]), None);
    }

    #[test]
    fn a_seed_repeats_itself_and_another_differs() {
        let logits = [1.0, 1.1, 0.9, 1.0];
        let first = sample(hot(None, None), &logits);
        assert_eq!(first, sample(hot(None, None), &logits));
        assert_ne!(first, sample(Sampling { seed: 8, ..hot(None, None) }, &logits));
    }

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let (logits, draws) = ([1.0f32.ln(), 2.0f32.ln(), 5.0f32.ln()], 40_000);
        let sampler = Sampler::new(Sampling { temperature: 1.0, seed: 3, ..Sampling::GREEDY }, None);
        let (mut counts, mut scratch) = ([0; 3], Scratch::default());
        let text = vec![TokenId(0); draws];
        for place in 0..draws {
            counts[sampler.sample(&logits, &text[..place], &mut scratch).unwrap().0 as usize] += 1;
        }
        for (count, share) in counts.into_iter().zip([0.125, 0.25, 0.625]) {
            assert!((f64::from(count) / draws as f64 - share).abs() < 0.01, "{counts:?}");
        }
    }

    #[test]
    fn top_k_top_p_and_min_p_leave_the_unlikely_out() {
        let logits = [4.0, 3.0, 2.0, 1.0, 0.0];
        let min_p = |p| Sampling { min_p: Some(p), ..hot(None, None) };
        for (sampling, allowed) in [
            (hot(Some(1), None), 1),
            (hot(Some(2), None), 2),
            (hot(None, Some(0.5)), 2),
            (hot(None, Some(0.0)), 1),
            (hot(Some(2), Some(0.1)), 1),
            (hot(Some(99), Some(0.3)), 1),
            (min_p(1.0), 1),
            // e^-½ is 0.607, e^-1 is 0.368.
            (min_p(0.6), 2),
            (min_p(0.3), 3),
        ] {
            let seen = sample(sampling, &logits);
            assert_eq!(seen.iter().max(), Some(&(allowed - 1)), "{sampling:?}");
        }
        for everything in [hot(Some(0), None), hot(None, Some(1.0)), hot(Some(99), None), min_p(0.0)] {
            assert_eq!(sample(everything, &logits), sample(hot(None, None), &logits), "{everything:?}");
        }
    }

    #[test]
    fn a_nucleus_of_many_tokens_is_found_as_exactly_as_one_of_few() {
        for p in [0.01, 0.3, 0.6, 0.999] {
            let mut candidates: Vec<_> = (0..3000)
                .map(|id| Candidate { id: id * 7 % 3000, weight: 1.0 + f64::from(id % 10) })
                .collect();
            let mut sorted = candidates.clone();
            sorted.sort_by(likelier);
            let total: f64 = sorted.iter().map(|candidate| candidate.weight).sum();
            let mut sum = 0.0;
            let expected = 1 + sorted
                .iter()
                .position(|candidate| {
                    sum += candidate.weight;
                    sum >= p * total
                })
                .unwrap();
            nucleus(&mut candidates, p);
            let ids = |all: &[Candidate]| all.iter().map(|candidate| candidate.id).collect::<Vec<_>>();
            assert_eq!(ids(&candidates), ids(&sorted[..expected]), "{p}");
        }
    }

    #[test]
    fn a_penalty_makes_what_was_said_less_likely_once() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        let choose = |logits: &[f32], text: &[u32]| {
            let text: Vec<_> = text.iter().copied().map(TokenId).collect();
            Sampler::new(sampling, None).sample(logits, &text, &mut Scratch::default()).unwrap().0
        };
        assert_eq!(choose(&[3.0, 2.0, 1.0], &[]), 0);
        assert_eq!(choose(&[3.0, 2.0, 1.0], &[0]), 1);
        assert_eq!(choose(&[3.0, 1.0, 1.2], &[0, 0, 0]), 0, "1.5 is left, not an eighth");
        assert_eq!(choose(&[-1.0, -1.5], &[0]), 1, "what is negative grows");
        assert_eq!(choose(&[3.0, 2.0], &[77]), 0, "a token beyond the vocabulary does not matter");
    }

    #[test]
    fn logprobs_are_the_logarithms_of_the_probabilities() {
        let logits = [1.0f32.ln(), 2.0f32.ln(), 5.0f32.ln()];
        let logprobs = Sampler::new(Sampling::GREEDY, Some(2)).logprobs(&logits, TokenId(0)).unwrap();
        let close = |a: f32, b: f32| (a - b.ln()).abs() < 1e-6;
        assert!(close(logprobs.chosen, 0.125));
        assert_eq!(logprobs.likeliest.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [2, 1]);
        assert!(close(logprobs.likeliest[0].1, 0.625) && close(logprobs.likeliest[1].1, 0.25));
        assert!(Sampler::new(Sampling::GREEDY, None).logprobs(&logits, TokenId(0)).is_none());
        let all = Sampler::new(Sampling::GREEDY, Some(20)).logprobs(&logits, TokenId(0)).unwrap();
        assert_eq!(all.likeliest.len(), 3);
    }
}
