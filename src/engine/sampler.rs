//! Chooses a token among the model's logits.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as Strategy};

use super::Sampling;
use crate::tokenizer::TokenId;

/// Below this temperature every probability but one rounds to nothing, and dividing by it overflows.
const MIN_TEMPERATURE: f64 = 1e-5;

/// Chooses tokens for one request.
pub(super) enum Sampler {
    Greedy,
    Random(Box<LogitsProcessor>),
}

impl Sampler {
    pub(super) fn new(sampling: Sampling) -> Self {
        let Sampling { temperature, top_k, top_p, seed } = sampling;
        if temperature.is_nan() || temperature < MIN_TEMPERATURE {
            return Self::Greedy;
        }
        let top_k = top_k.filter(|&k| k > 0);
        let top_p = top_p.filter(|&p| p < 1.0);
        let strategy = match (top_k, top_p) {
            (None, None) => Strategy::All { temperature },
            (Some(k), None) => Strategy::TopK { k, temperature },
            // A nucleus of nothing still has its likeliest token; the library would take it for all of them.
            (_, Some(p)) if p <= 0.0 => return Self::Greedy,
            (None, Some(p)) => Strategy::TopP { p, temperature },
            (Some(k), Some(p)) => Strategy::TopKThenTopP { k, p, temperature },
        };
        Self::Random(Box::new(LogitsProcessor::from_sampling(seed, strategy)))
    }

    /// Chooses a token, or none if the logits are not numbers.
    pub(super) fn sample(&mut self, logits: Vec<f32>) -> Option<TokenId> {
        match self {
            Self::Greedy => likeliest(&logits),
            Self::Random(processor) => {
                likeliest(&logits)?;
                let length = logits.len();
                let logits = Tensor::from_vec(logits, length, &Device::Cpu).ok()?;
                processor.sample(&logits).ok().map(TokenId)
            }
        }
    }
}

/// The token of the largest logit, the first of several; none if one of them is not a number.
pub(super) fn likeliest(logits: &[f32]) -> Option<TokenId> {
    let mut best: Option<(u32, f32)> = None;
    for (id, &logit) in (0..).zip(logits) {
        if !logit.is_finite() {
            return None;
        }
        if best.is_none_or(|(_, largest)| logit > largest) {
            best = Some((id, logit));
        }
    }
    best.map(|(id, _)| TokenId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling);
        (0..64).map(|_| sampler.sample(logits.to_vec()).unwrap().0).collect()
    }

    fn hot(top_k: Option<usize>, top_p: Option<f64>) -> Sampling {
        Sampling { temperature: 2.0, top_k, top_p, seed: 7 }
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(sample(Sampling::GREEDY, &[0.0, 3.0, -1.0, 3.0]), [1; 64]);
        for temperature in [-1.0, f64::NAN, 1e-9] {
            assert_eq!(sample(Sampling { temperature, ..Sampling::GREEDY }, &[0.0, 3.0]), [1; 64]);
        }
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for sampling in [Sampling::GREEDY, hot(None, None)] {
                assert_eq!(Sampler::new(sampling).sample(vec![0.0, bad, 1.0]), None);
            }
        }
        assert_eq!(Sampler::new(Sampling::GREEDY).sample(Vec::new()), None);
    }

    #[test]
    fn a_seed_repeats_itself_and_another_differs() {
        let logits = [1.0, 1.1, 0.9, 1.0];
        let first = sample(hot(None, None), &logits);
        assert_eq!(first, sample(hot(None, None), &logits));
        assert_ne!(first, sample(Sampling { seed: 8, ..hot(None, None) }, &logits));
    }

    #[test]
    fn top_k_and_top_p_leave_the_unlikely_out() {
        let logits = [4.0, 3.0, 2.0, 1.0, 0.0];
        for (sampling, allowed) in [
            (hot(Some(1), None), 1),
            (hot(Some(2), None), 2),
            (hot(None, Some(0.5)), 2),
            (hot(None, Some(0.0)), 1),
            (hot(Some(2), Some(0.1)), 1),
            (hot(Some(99), Some(0.3)), 1),
        ] {
            let seen = sample(sampling, &logits);
            assert_eq!(seen.iter().max(), Some(&(allowed - 1)), "{sampling:?}");
        }
        for everything in [hot(Some(0), None), hot(None, Some(1.0)), hot(Some(99), None)] {
            assert_eq!(sample(everything, &logits), sample(hot(None, None), &logits), "{everything:?}");
        }
    }
}
