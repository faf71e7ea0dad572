//! Numbers for tests: the same for the same seed, and how close two lists of them must be.

/// A small generator, so that a failure can be repeated.
pub struct Numbers(u64);

impl Numbers {
    /// A generator that `seed` determines.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xBF58_476D_1CE4_E5B9)
    }

    /// The next 64 random bits.
    pub fn next_bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next_bits() % (high - low + 1) as u64) as usize
    }

    /// One element of `among`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.between(0, among.len() - 1)]
    }

    /// About normally distributed.
    pub fn normal(&mut self) -> f32 {
        (0..6).map(|_| (self.next_bits() >> 40) as f32 / 8_388_608.0 - 1.0).sum::<f32>() / 2f32.sqrt()
    }

    /// `count` normally distributed numbers times `scale`.
    pub fn normals(&mut self, count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|_| self.normal() * scale).collect()
    }
}

/// Holds each of `found` against what is `expected`: within `tolerance` of it, or of `floor` if it is smaller.
#[track_caller]
pub fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, floor: f64) {
    assert_eq!(found.len(), expected.len());
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs();
        assert!(off <= tolerance * expected.abs().max(floor), "{index}: {found} instead of {expected}");
    }
}
