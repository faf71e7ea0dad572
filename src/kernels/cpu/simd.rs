//! Sixteen numbers at a time, whatever the instruction set: the vocabulary that kernels are written in.
//!
//! Must not touch: what is computed.

/// How many numbers are worked on at a time.
pub(super) const LANES: usize = 16;

/// Sixteen numbers that lie together.
pub(super) type Lane<T> = [T; LANES];

/// An instruction set. A value of such a type is the proof that this machine has it.
pub(super) trait Simd: Copy {
    /// Sixteen f32 in registers.
    type V: Copy;
    /// Whether there are registers for large tiles.
    const WIDE: bool;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &Lane<f32>) -> Self::V;
    fn load_bf16(self, from: &Lane<u16>) -> Self::V;
    fn load_i8(self, from: &Lane<i8>) -> Self::V;
    /// The f16 that `bits` are, sixteen times.
    fn splat_f16(self, bits: u16) -> Self::V;
    fn store(self, value: Self::V, to: &mut Lane<f32>);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger one; `b` if either is not a number.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller one; `b` if either is not a number.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest whole number.
    fn round(self, value: Self::V) -> Self::V;
    /// 2 to a whole number between -126 and 127.
    fn exp2(self, whole: Self::V) -> Self::V;
    /// The sum by halves: lanes 8 apart, then 4, 2 and 1.
    fn sum(self, value: Self::V) -> f32;
    /// Asks for the cache line `ahead` elements behind the first of `from`, which need not exist.
    fn prefetch<T>(self, from: &[T], ahead: usize);
}

/// What is made for every instruction set.
pub(super) trait Kernel {
    /// Must be `#[inline(always)]`, as all that it calls: only so the instructions are used.
    fn run<S: Simd>(self, simd: S);
}

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512(super::x86::Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(super::x86::Avx2),
    Portable,
}

impl Level {
    /// The widest one.
    pub(crate) fn best() -> Self {
        Self::available().next().unwrap_or(Self(Set::Portable))
    }

    /// All of them, the widest first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            super::x86::Avx512::detect().map(Set::Avx512),
            #[cfg(target_arch = "x86_64")]
            super::x86::Avx2::detect().map(Set::Avx2),
            Some(Set::Portable),
        ]
        .into_iter()
        .flatten()
        .map(Self)
    }

    #[cfg(test)]
    pub(super) fn portable() -> Self {
        Self(Set::Portable)
    }

    pub(super) fn run(self, kernel: impl Kernel) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(simd) => simd.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(simd) => simd.run(kernel),
            Set::Portable => kernel.run(Portable),
        }
    }
}

/// What every machine has; also what the others are tested against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Portable;

impl Simd for Portable {
    type V = Lane<f32>;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &Lane<f32>) -> Self::V {
        *from
    }

    #[inline(always)]
    fn load_bf16(self, from: &Lane<u16>) -> Self::V {
        from.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }

    #[inline(always)]
    fn load_i8(self, from: &Lane<i8>) -> Self::V {
        from.map(f32::from)
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> Self::V {
        [half::f16::from_bits(bits).to_f32(); LANES]
    }

    #[inline(always)]
    fn store(self, value: Self::V, to: &mut Lane<f32>) {
        *to = value;
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|lane| a[lane] / b[lane])
    }

    /// Rounds twice: a fused one is a call into the C library where the machine has none.
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|lane| if a[lane] > b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|lane| if a[lane] < b[lane] { a[lane] } else { b[lane] })
    }

    #[inline(always)]
    fn round(self, value: Self::V) -> Self::V {
        value.map(f32::round_ties_even)
    }

    #[inline(always)]
    fn exp2(self, whole: Self::V) -> Self::V {
        whole.map(|whole| f32::from_bits(((whole as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn sum(self, value: Self::V) -> f32 {
        let eight: [f32; 8] = std::array::from_fn(|lane| value[lane] + value[lane + 8]);
        let four: [f32; 4] = std::array::from_fn(|lane| eight[lane] + eight[lane + 4]);
        let two = [four[0] + four[2], four[1] + four[3]];
        two[0] + two[1]
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &[T], _: usize) {}
}
