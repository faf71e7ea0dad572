//! AVX-512 and AVX2. Their values are made by [`Avx512::detect`] and [`Avx2::detect`] alone: having one is the proof that the
//! machine has the instructions.

mod transpose;

use std::arch::x86_64::*;

use super::simd::{Kernel, Lane, Simd};

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

    /// The sums of pairs of i16, added to `sum`.
    #[inline(always)]
    fn add_pairs(self, sum: __m256i, pairs: __m256i) -> __m256i {
        // SAFETY: `self` proves that this machine has the features.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
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

/// Four bytes as one number.
#[inline(always)]
fn four(bytes: [i8; 4]) -> i32 {
    i32::from_ne_bytes(bytes.map(i8::cast_unsigned))
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
    type I = __m512i;
    type B = __m512i;
    const WIDE: bool = true;
    const BF16: bool = true;

    instructions! {
        add(a, b) = _mm512_add_ps(a, b);
        mul(a, b) = _mm512_mul_ps(a, b);
        div(a, b) = _mm512_div_ps(a, b);
        fma(a, b, c) = _mm512_fmadd_ps(a, b, c);
        max(a, b) = _mm512_max_ps(a, b);
        min(a, b) = _mm512_min_ps(a, b);
        round(value) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value);
        floor(value) = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(value);
        at_least(a, b, value) = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b), value);
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

impl Simd for Avx2 {
    type V = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];
    const WIDE: bool = false;
    const BF16: bool = false;

    instructions! {
        add(a, b) = [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])];
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
    fn transpose(self, from: &[u8], stride: usize, to: &mut [Lane<[u8; 4]>; 8]) {
        transpose::avx2(self, from, stride, to);
    }
}
