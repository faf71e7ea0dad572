//! Samples a token from the model's logits with the parameters of a request.
//!
//! The repetition penalty is applied first; everything else is [`codeseal_kernels::sampling`], as on a device. The token
//! depends on the logits, the request and the position, and on nothing else: not on the batch, nor on draft tokens.

use super::{Logprobs, Sampling};
use crate::token::TokenId;
use codeseal_kernels::sampling::{self, RowSampler, SamplingParams, sample_row};

/// Samples the tokens of one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampler {
    row: RowSampler,
    repetition_penalty: f64,
    logprobs: Option<usize>,
}

/// Memory that is reused from one token to the next.
#[derive(Default)]
pub(super) struct Scratch {
    penalized: Vec<f32>,
    row: sampling::Scratch,
}

impl Sampler {
    pub(super) fn new(sampling: Sampling, logprobs: Option<usize>) -> Self {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, seed } = sampling;
        let params = SamplingParams {
            temperature: temperature as f32,
            top_k: top_k.map_or(0, |k| u32::try_from(k).unwrap_or(u32::MAX)),
            top_p: top_p.map_or(1.0, |p| p as f32),
            min_p: min_p.map_or(0.0, |p| p as f32),
        };
        Self { row: RowSampler::new(&params, seed), repetition_penalty, logprobs }
    }

    /// The parameters for a device to sample with. None if it cannot: it has no repetition penalty and no log probabilities.
    pub(super) fn on_device(&self) -> Option<RowSampler> {
        (self.logprobs.is_none() && self.repetition_penalty == 1.0).then_some(self.row)
    }

    /// Samples the token after `text`; none if the logits are not all finite.
    pub(super) fn sample(&self, logits: &[f32], text: &[TokenId], scratch: &mut Scratch) -> Option<TokenId> {
        let Scratch { penalized, row } = scratch;
        let logits = if self.repetition_penalty == 1.0 {
            logits
        } else {
            penalize(logits, text, self.repetition_penalty as f32, penalized);
            penalized.as_slice()
        };
        // As on a device: the position of the last token.
        let counter = text.len().saturating_sub(1) as u64;
        sample_row(logits, &self.row, counter, row).map(TokenId)
    }

    /// The log probabilities of `token` and of the most likely tokens, if the request asks for them; before penalties.
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
            top: order.into_iter().map(|(id, logit)| (TokenId(id), logprob(logit))).collect(),
        }))
    }
}

/// The repetition penalty of CTRL (Keskar et al. 2019), section 4.1, for the tokens of `text`.
fn penalize(logits: &[f32], text: &[TokenId], penalty: f32, to: &mut Vec<f32>) {
    to.clear();
    to.extend_from_slice(logits);
    for token in text {
        // From the unpenalized logit: a token counts once however often it occurred.
        if let (Some(to), Some(&logit)) = (to.get_mut(token.0 as usize), logits.get(token.0 as usize)) {
            *to = if logit > 0.0 { logit / penalty } else { logit * penalty };
        }
    }
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
        assert_eq!(Sampler::new(hot(None, None), None).sample(&[], &[], &mut Scratch::default()), None);
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
    fn a_token_is_chosen_as_a_device_does_that_has_read_the_last_one() {
        let logits: Vec<f32> = (0..300).map(|id| (id * 7 % 31) as f32 / 9.0).collect();
        let (text, mut scratch) = ([TokenId(9); 40], Scratch::default());
        for sampling in [hot(None, None), hot(Some(40), None), hot(None, Some(0.9)), hot(Some(40), Some(0.5))]
        {
            let sampler = Sampler::new(sampling, None);
            for length in 1..40 {
                let expected = sample_row(
                    &logits,
                    &sampler.on_device().unwrap(),
                    length as u64 - 1,
                    &mut sampling::Scratch::default(),
                );
                let chosen = sampler.sample(&logits, &text[..length], &mut scratch);
                assert_eq!(chosen.map(|token| token.0), expected, "{sampling:?}");
            }
        }
        assert!(Sampler::new(hot(None, None), Some(0)).on_device().is_none());
        assert!(
            Sampler::new(Sampling { repetition_penalty: 1.1, ..hot(None, None) }, None).on_device().is_none()
        );
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
        assert_eq!(logprobs.top.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [2, 1]);
        assert!(close(logprobs.top[0].1, 0.625) && close(logprobs.top[1].1, 0.25));
        assert!(Sampler::new(Sampling::GREEDY, None).logprobs(&logits, TokenId(0)).is_none());
        let all = Sampler::new(Sampling::GREEDY, Some(20)).logprobs(&logits, TokenId(0)).unwrap();
        assert_eq!(all.top.len(), 3);
    }
}
