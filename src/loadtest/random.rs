//! Numbers that look random and are the same for the same seed: SplitMix64.

/// A sequence of numbers.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The sequence number `stream` of `seed`: different streams have nothing in common.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xD6E8_FEB8_6659_FD93));
        // Neighbouring seeds begin with neighbouring states: one step puts them far apart.
        random.0 = random.next();
        random
    }

    /// The next number.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to just below 1.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number below `bound`; 0 if that is 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// The time to the next of events that come independently of each other, one a `mean` on average.
    pub(super) fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.uniform()).ln() * mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers_and_another_does_not() {
        let numbers = |seed, stream| {
            let mut random = Random::new(seed, stream);
            [random.next(), random.next()]
        };
        assert_eq!(numbers(1, 2), numbers(1, 2));
        for other in [numbers(1, 3), numbers(2, 2), numbers(0, 0)] {
            assert_ne!(numbers(1, 2), other);
        }
    }

    #[test]
    fn waits_have_the_mean_and_the_spread_of_a_poisson_process() {
        let mut random = Random::new(7, 0);
        let waits: Vec<f64> = (0..20_000).map(|_| random.exponential(0.5)).collect();
        let mean = waits.iter().sum::<f64>() / waits.len() as f64;
        let variance = waits.iter().map(|wait| (wait - mean).powi(2)).sum::<f64>() / waits.len() as f64;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
        // The standard deviation of an exponential distribution is its mean.
        assert!((variance.sqrt() - 0.5).abs() < 0.02, "{variance}");
        assert!(waits.iter().all(|wait| wait.is_finite() && *wait >= 0.0));
    }

    #[test]
    fn choices_stay_below_their_bound() {
        let mut random = Random::new(0, 0);
        assert_eq!(random.below(0), 0);
        let mut seen = [false; 5];
        for _ in 0..200 {
            seen[random.below(5)] = true;
        }
        assert_eq!(seen, [true; 5]);
    }
}
