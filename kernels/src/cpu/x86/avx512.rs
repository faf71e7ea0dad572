//! Sixteen lanes in one register.

use std::arch::x86_64::*;

use super::super::simd::{Lane, Simd};
use super::{Avx2, Avx512, four, transpose};

impl Simd for Avx512 {
    type V = __m512;
    type I = __m512i;
    type B = __m512i;
    const WIDE: bool = true;
    const BF16: bool = true;

    instructions! {
        add(a, b) = _mm512_add_ps(a, b);
        sub(a, b) = _mm512_sub_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
        max(a, b) = _mm512_max_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        round(value) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value);
        floor(value) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(value);
        at_least(a, b, value) = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b), value);
        if_less(a, b, then, otherwise) =
            _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), then);
        exp2(whole) = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            _mm512_cvtps_epi32(whole),
            _mm512_set1_epi32(127),
        )));
    }

    #[inline(always)]
    fn prefetch<T>(self, from: &Lane<T>) {
        // SAFETY: every x86-64 has it, and it only hints.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(from).cast()) }
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
    fn load_f16(self, from: &Lane<u16>) -> __m512 {
        // SAFETY: as above, and the reference covers the 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_u8(self, from: &Lane<u8>) -> __m512 {
        // SAFETY: as above, and the reference covers the 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_pairs(self, from: &Lane<[u16; 2]>) -> [__m512; 2] {
        // SAFETY: as above, and the reference covers the 64 bytes.
        unsafe {
            let pairs = _mm512_loadu_si512(from.as_ptr().cast());
            let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF_0000_u32.cast_signed()));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second)]
        }
    }

    /// Denormal numbers count as zero, and the sum of each pair is rounded once.
    #[inline(always)]
    fn dot_bf16(self, sum: __m512, a: &Lane<[u16; 2]>, b: [u16; 2]) -> __m512 {
        // SAFETY: as above, and the reference covers the 64 bytes; a vector of bf16 is 64 bytes of anything.
        unsafe {
            let a = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(a.as_ptr().cast()));
            let b = u32::from(b[1]) << 16 | u32::from(b[0]);
            let b = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(b.cast_signed()));
            _mm512_dpbf16_ps(sum, a, b)
        }
    }

    #[inline(always)]
    fn to_bytes(self, four: [__m512; 4]) -> Lane<[u8; 4]> {
        let mut to = [[0; 4]; 16];
        // SAFETY: `self` proves that this machine has the features, and sixteen times four bytes are 64.
        unsafe {
            let [a, b, c, d] = four.map(|column| _mm512_cvtps_epi32(column));
            let low = _mm512_or_si512(a, _mm512_slli_epi32::<8>(b));
            let high = _mm512_or_si512(_mm512_slli_epi32::<16>(c), _mm512_slli_epi32::<24>(d));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_or_si512(low, high));
        }
        to
    }

    #[inline(always)]
    fn to_f16(self, value: __m512) -> Lane<u16> {
        let mut to = [0; 16];
        // SAFETY: `self` proves that this machine has the features, and the reference covers the 32 bytes.
        unsafe {
            let halves = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), halves);
        }
        to
    }

    #[inline(always)]
    fn bytes(self, from: &Lane<[u8; 4]>) -> __m512i {
        // SAFETY: as above, and the reference covers the 64 bytes.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: __m512i) -> __m512i {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: __m512i) -> __m512i {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), _mm512_set1_epi8(15)) }
    }

    #[inline(always)]
    fn zeros(self) -> __m512i {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn dot_nibbles(self, sum: __m512i, a: __m512i, b: [i8; 4]) -> __m512i {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm512_dpbusd_epi32(sum, a, _mm512_set1_epi32(four(b))) }
    }

    #[inline(always)]
    fn start(self, bias: i32) -> __m512i {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm512_set1_epi32(bias) }
    }

    /// As the bytes are, without their bias: the sum began with that.
    #[inline(always)]
    fn dot_biased(self, sum: __m512i, a: __m512i, b: [i8; 4]) -> __m512i {
        self.dot_nibbles(sum, a, b)
    }

    #[inline(always)]
    fn to_f32(self, whole: __m512i) -> __m512 {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm512_cvtepi32_ps(whole) }
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
    fn transpose(self, from: &[u8], stride: usize, to: &mut [Lane<[u8; 4]>; 8]) {
        transpose::avx2(Avx2(()), from, stride, to);
    }
}
