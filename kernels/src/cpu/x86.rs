//! AVX-512 and AVX2. Their values are made by [`Avx512::detect`] and [`Avx2::detect`] alone: having one is the proof that the
//! machine has the instructions.

/// Writes the methods that are one instruction each. The proof is the same for all of them.
macro_rules! instructions {
    ($($name:ident($($argument:ident),*) = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($argument: Self::V),*) -> Self::V {
            // SAFETY: `self` proves that this machine has the features.
            unsafe { $body }
        }
    )*};
}

mod avx2;
mod avx512;
mod transpose;

use super::simd::Kernel;

/// This machine has AVX-512 with products of bytes (VNNI) and of bf16, as Zen 4 and Sapphire Rapids have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512(());

/// This machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bf16")
            && Avx2::detect().is_some();
        here.then_some(Self(()))
    }

    pub(super) fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
        fn inner(simd: Avx512, kernel: impl Kernel) {
            kernel.run(simd);
        }
        // SAFETY: `self` proves that this machine has the features.
        unsafe { inner(self, kernel) }
    }
}

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        here.then_some(Self(()))
    }

    pub(super) fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner(simd: Avx2, kernel: impl Kernel) {
            kernel.run(simd);
        }
        // SAFETY: `self` proves that this machine has the features.
        unsafe { inner(self, kernel) }
    }
}

/// Four bytes as one number.
#[inline(always)]
fn four(bytes: [i8; 4]) -> i32 {
    i32::from_ne_bytes(bytes.map(i8::cast_unsigned))
}
