//! AVX-512 and AVX2. Their values are made by [`Avx512::detect`] and [`Avx2::detect`] alone: whoever holds one may
//! use the instructions.
//!
//! Must not touch: what is computed.
#![allow(unsafe_code, reason = "instructions that not every machine has")]

use std::arch::x86_64::*;

use super::simd::{Kernel, Lane, Simd};

/// This machine has AVX-512F, and all that comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx512(());

/// This machine has AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let here = is_x86_feature_detected!("avx512f") && Avx2::detect().is_some();
        here.then_some(Self(()))
    }

    pub(super) fn run(self, kernel: impl Kernel) {
        #[target_feature(enable = "avx512f,avx2,fma,f16c")]
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

    /// The sum of eight, by halves.
    #[inline(always)]
    fn sum8(self, value: __m256) -> f32 {
        // SAFETY: `self` proves that this machine has the features.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps::<1>(value));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

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

impl Simd for Avx512 {
    type V = __m512;
    const WIDE: bool = true;

    instructions! {
        add(a, b) = _mm512_add_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
        max(a, b) = _mm512_max_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        round(value) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value);
        exp2(whole) = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            _mm512_cvtps_epi32(whole),
            _mm512_set1_epi32(127),
        )));
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &Lane<f32>) -> __m512 {
        // SAFETY: as above, and the reference covers the 64 bytes.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &Lane<u16>) -> __m512 {
        // SAFETY: as above, and the reference covers the 32 bytes.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &Lane<i8>) -> __m512 {
        // SAFETY: as above, and the reference covers the 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> __m512 {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(bits.cast_signed())) }
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut Lane<f32>) {
        // SAFETY: as above, and the reference covers the 64 bytes.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn sum(self, value: __m512) -> f32 {
        // SAFETY: `self` proves that this machine has the features.
        let eight = unsafe {
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd::<1>(_mm512_castps_pd(value)));
            _mm256_add_ps(_mm512_castps512_ps256(value), high)
        };
        Avx2(()).sum8(eight)
    }

    #[inline(always)]
    fn prefetch<T>(self, from: &[T], ahead: usize) {
        Avx2(()).prefetch(from, ahead);
    }
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    const WIDE: bool = false;

    instructions! {
        add(a, b) = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])];
        mul(a, b) = [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])];
        div(a, b) = [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])];
        fma(a, b, c) = [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
        max(a, b) = [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])];
        min(a, b) = [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])];
        round(value) = value
            .map(|half| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(half));
        exp2(whole) = whole.map(|half| {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(half), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        });
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, from: &Lane<f32>) -> Self::V {
        let at = from.as_ptr();
        // SAFETY: as above, and the reference covers the 64 bytes.
        unsafe { [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))] }
    }

    #[inline(always)]
    fn load_bf16(self, from: &Lane<u16>) -> Self::V {
        let at = from.as_ptr();
        // SAFETY: as above, and the reference covers the 32 bytes.
        unsafe {
            let widen = |bits| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)));
            [widen(_mm_loadu_si128(at.cast())), widen(_mm_loadu_si128(at.add(8).cast()))]
        }
    }

    #[inline(always)]
    fn load_i8(self, from: &Lane<i8>) -> Self::V {
        // SAFETY: as above, and the reference covers the 16 bytes.
        unsafe {
            let low = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_unpackhi_epi64(low, low);
            [_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high))]
        }
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> Self::V {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { [_mm256_cvtph_ps(_mm_set1_epi16(bits.cast_signed())); 2] }
    }

    #[inline(always)]
    fn store(self, value: Self::V, to: &mut Lane<f32>) {
        let at = to.as_mut_ptr();
        // SAFETY: as above, and the reference covers the 64 bytes.
        unsafe {
            _mm256_storeu_ps(at, value[0]);
            _mm256_storeu_ps(at.add(8), value[1]);
        }
    }

    #[inline(always)]
    fn sum(self, value: Self::V) -> f32 {
        // SAFETY: `self` proves that this machine has the features.
        self.sum8(unsafe { _mm256_add_ps(value[0], value[1]) })
    }

    #[inline(always)]
    fn prefetch<T>(self, from: &[T], ahead: usize) {
        let at = from.as_ptr().wrapping_add(ahead);
        // SAFETY: `self` proves that this machine has the features; a prefetch reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}
