//! Sixteen lanes in two registers.

use std::arch::x86_64::*;

use super::super::simd::{Lane, Simd, dot_biased_rows};
use super::{Avx2, four, transpose};

impl Avx2 {
    /// The sums of pairs of i16, added to `sum`.
    #[inline(always)]
    fn add_pairs(self, sum: __m256i, pairs: __m256i) -> __m256i {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
    }

    /// The sum of eight, by halves.
    #[inline(always)]
    pub(super) fn sum8(self, value: __m256) -> f32 {
        // SAFETY: `self` proves that this machine has the features.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps::<1>(value));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }
}

impl Simd for Avx2 {
    type V = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    const WIDE: bool = false;
    const BF16: bool = false;

    instructions! {
        add(a, b) = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])];
        sub(a, b) = [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])];
        mul(a, b) = [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])];
        div(a, b) = [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])];
        fma(a, b, c) = [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])];
        max(a, b) = [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])];
        min(a, b) = [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])];
        round(value) = value
            .map(|half| _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(half));
        floor(value) =
            value.map(|half| _mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(half));
        at_least(a, b, value) = [
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[0], b[0]), value[0]),
            _mm256_and_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a[1], b[1]), value[1]),
        ];
        if_less(a, b, then, otherwise) = [
            _mm256_blendv_ps(otherwise[0], then[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(otherwise[1], then[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
        ];
        exp2(whole) = whole.map(|half| {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(half), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        });
    }

    #[inline(always)]
    fn prefetch<T>(self, from: &Lane<T>) {
        // SAFETY: every x86-64 has it, and it only hints.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(from).cast()) }
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
    fn load_f16(self, from: &Lane<u16>) -> Self::V {
        let at = from.as_ptr();
        // SAFETY: as above, and the reference covers the 32 bytes.
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(at.cast())), _mm256_cvtph_ps(_mm_loadu_si128(at.add(8).cast()))]
        }
    }

    #[inline(always)]
    fn load_u8(self, from: &Lane<u8>) -> Self::V {
        // SAFETY: as above, and the reference covers the 16 bytes.
        unsafe {
            let low = _mm_loadu_si128(from.as_ptr().cast());
            let high = _mm_unpackhi_epi64(low, low);
            [_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(low)), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(high))]
        }
    }

    #[inline(always)]
    fn load_pairs(self, from: &Lane<[u16; 2]>) -> [Self::V; 2] {
        let at: *const __m256i = from.as_ptr().cast();
        // SAFETY: as above, and the reference covers the 64 bytes.
        unsafe {
            let pairs = [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))];
            let upper = _mm256_set1_epi32(0xFFFF_0000_u32.cast_signed());
            [
                pairs.map(|pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))),
                pairs.map(|pairs| _mm256_castsi256_ps(_mm256_and_si256(pairs, upper))),
            ]
        }
    }

    #[inline(always)]
    fn dot_bf16(self, sum: Self::V, a: &Lane<[u16; 2]>, b: [u16; 2]) -> Self::V {
        let ([first, second], b) = (self.load_pairs(a), b.map(|bits| f32::from_bits(u32::from(bits) << 16)));
        self.fma(second, self.splat(b[1]), self.fma(first, self.splat(b[0]), sum))
    }

    #[inline(always)]
    fn to_bytes(self, four: [Self::V; 4]) -> Lane<[u8; 4]> {
        let mut to = [[0; 4]; 16];
        for half in 0..2 {
            // SAFETY: `self` proves that this machine has the features, and eight times four bytes are 32.
            unsafe {
                let [a, b, c, d] = four.map(|column| _mm256_cvtps_epi32(column[half]));
                let low = _mm256_or_si256(a, _mm256_slli_epi32::<8>(b));
                let high = _mm256_or_si256(_mm256_slli_epi32::<16>(c), _mm256_slli_epi32::<24>(d));
                let at = to.as_mut_ptr().add(8 * half).cast();
                _mm256_storeu_si256(at, _mm256_or_si256(low, high));
            }
        }
        to
    }

    #[inline(always)]
    fn bytes(self, from: &Lane<[u8; 4]>) -> Self::B {
        let at: *const __m256i = from.as_ptr().cast();
        // SAFETY: as above, and the reference covers the 64 bytes.
        unsafe { [_mm256_loadu_si256(at), _mm256_loadu_si256(at.add(1))] }
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: Self::B) -> Self::B {
        // SAFETY: `self` proves that this machine has the features.
        bytes.map(|bytes| unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(15)) })
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: Self::B) -> Self::B {
        // SAFETY: `self` proves that this machine has the features.
        self.low_nibbles(bytes.map(|bytes| unsafe { _mm256_srli_epi32::<4>(bytes) }))
    }

    #[inline(always)]
    fn zeros(self) -> Self::I {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    /// Two products fit into sixteen bits: 2 · 15 · 127.
    #[inline(always)]
    fn dot_nibbles(self, sum: Self::I, a: Self::B, b: [i8; 4]) -> Self::I {
        // SAFETY: `self` proves that this machine has the features.
        unsafe {
            let b = _mm256_set1_epi32(four(b));
            let pairs = a.map(|a| _mm256_maddubs_epi16(a, b));
            [self.add_pairs(sum[0], pairs[0]), self.add_pairs(sum[1], pairs[1])]
        }
    }

    #[inline(always)]
    fn start(self, _: i32) -> Self::I {
        self.zeros()
    }

    /// |a| · (b with the sign of a): two products fit into sixteen bits, 2 · 128 · 127.
    #[inline(always)]
    fn dot_biased(self, sum: Self::I, a: Self::B, b: [i8; 4]) -> Self::I {
        // SAFETY: `self` proves that this machine has the features.
        unsafe {
            let b = _mm256_set1_epi32(four(b));
            let pairs = a.map(|a| {
                let a = _mm256_xor_si256(a, _mm256_set1_epi8(i8::MIN));
                _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(b, a))
            });
            [self.add_pairs(sum[0], pairs[0]), self.add_pairs(sum[1], pairs[1])]
        }
    }

    #[inline(always)]
    fn to_f32(self, whole: Self::I) -> Self::V {
        // SAFETY: `self` proves that this machine has the features.
        whole.map(|whole| unsafe { _mm256_cvtepi32_ps(whole) })
    }

    /// Eight rows at a time where the sums of all sixteen and what they are made of do not fit into sixteen registers.
    #[inline(always)]
    fn dot_biased_block<const N: usize>(
        self,
        biases: [i32; N],
        a: &[Lane<[u8; 4]>; 8],
        b: &[[[i8; 4]; N]; 8],
    ) -> [Self::I; N] {
        // A decode step of few sequences waits for memory: it reads each line once.
        if N <= 4 {
            return dot_biased_rows(self, biases, a, b);
        }
        let mut all = [self.zeros(); N];
        for half in 0..2 {
            let mut sums = [self.zeros()[0]; N];
            for (a, b) in a.iter().zip(b) {
                // SAFETY: `self` proves that this machine has the features, and eight times four bytes are 32.
                unsafe {
                    let a = _mm256_loadu_si256(a.as_ptr().add(8 * half).cast());
                    let a = _mm256_xor_si256(a, _mm256_set1_epi8(i8::MIN));
                    let magnitude = _mm256_abs_epi8(a);
                    for (sum, b) in sums.iter_mut().zip(b) {
                        let b = _mm256_sign_epi8(_mm256_set1_epi32(four(*b)), a);
                        *sum = self.add_pairs(*sum, _mm256_maddubs_epi16(magnitude, b));
                    }
                }
            }
            for (all, sum) in all.iter_mut().zip(sums) {
                all[half] = sum;
            }
        }
        all
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
    fn to_f16(self, value: Self::V) -> Lane<u16> {
        let mut to = [0; 16];
        for (half, to) in value.into_iter().zip(to.as_chunks_mut::<8>().0) {
            // SAFETY: `self` proves that this machine has the features, and the reference covers the 16 bytes.
            unsafe {
                let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(half);
                _mm_storeu_si128(to.as_mut_ptr().cast(), halves);
            }
        }
        to
    }

    #[inline(always)]
    fn sum(self, value: Self::V) -> f32 {
        // SAFETY: `self` proves that this machine has the features.
        self.sum8(unsafe { _mm256_add_ps(value[0], value[1]) })
    }

    #[inline(always)]
    fn transpose(self, from: &[u8], stride: usize, to: &mut [Lane<[u8; 4]>; 8]) {
        transpose::avx2(self, from, stride, to);
    }
}
