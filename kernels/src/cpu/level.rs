//! The instruction sets that this machine has, detected at run time.

use super::simd::{Kernel, Portable, Simd};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    Portable,
}

impl Level {
    /// The widest one.
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self(Set::Portable))
    }

    /// All of them, the widest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            Avx512::detect().map(Set::Avx512),
            #[cfg(target_arch = "x86_64")]
            Avx2::detect().map(Set::Avx2),
            Some(Set::Portable),
        ]
        .into_iter()
        .flatten()
        .map(Self)
    }

    /// What the instruction set is called.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => "avx2",
            Set::Portable => "portable",
        }
    }

    #[cfg(test)]
    pub(super) fn portable() -> Self {
        Self(Set::Portable)
    }

    /// Whether pairs of bf16 are multiplied by one instruction, for which activations are rounded to bf16.
    pub(super) fn multiplies_bf16(self) -> bool {
        self.constants().0
    }

    /// Of how many tokens tiles are made.
    pub(super) fn widths(self) -> &'static [usize] {
        self.constants().1
    }

    fn constants(self) -> (bool, &'static [usize]) {
        fn of<S: Simd>(_: S) -> (bool, &'static [usize]) {
            (S::BF16, S::WIDTHS)
        }
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => of(simd),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => of(simd),
            Set::Portable => of(Portable),
        }
    }

    pub(crate) fn run(self, kernel: impl Kernel) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => simd.run(kernel),
            Set::Portable => kernel.run(Portable),
        }
    }
}
