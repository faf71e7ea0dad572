//! Sixteen lanes on any instruction set: the operations that kernels are written in.

/// How many numbers are worked on at a time.
pub(crate) const LANES: usize = 16;

/// Sixteen numbers that lie together.
pub(crate) type Lane<T> = [T; LANES];

/// An instruction set. A value of such a type is the proof that this machine has it.
pub(crate) trait Simd: Copy {
    /// Sixteen f32 in registers.
    type V: Copy;
    /// Sixteen i32 in registers.
    type I: Copy;
    /// Sixty-four bytes in registers.
    type B: Copy;
    /// Whether there are registers for large tiles.
    const WIDE: bool;
    /// Whether pairs of bf16 are multiplied by one instruction.
    const BF16: bool;
    /// Widths of a tile in tokens, the largest first: whatever is left of a batch is made of these.
    const WIDTHS: &'static [usize] = if Self::WIDE { &[12, 8, 6, 4, 3, 2, 1] } else { &[6, 4, 3, 2, 1] };

    /// Calls `from` into the second cache.
    fn prefetch<T>(self, from: &Lane<T>);
    fn splat(self, value: f32) -> Self::V;
    fn load(self, from: &Lane<f32>) -> Self::V;
    fn load_f16(self, from: &Lane<u16>) -> Self::V;
    fn load_u8(self, from: &Lane<u8>) -> Self::V;
    /// The first and the second of sixteen pairs of bf16.
    fn load_pairs(self, from: &Lane<[u16; 2]>) -> [Self::V; 2];
    fn store(self, value: Self::V, to: &mut Lane<f32>);
    /// To the nearest f16.
    fn to_f16(self, value: Self::V) -> Lane<u16>;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
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
    /// Down to a whole number.
    fn floor(self, value: Self::V) -> Self::V;
    /// What of `value` stands where `a` is at least `b`, and 0 elsewhere.
    fn at_least(self, a: Self::V, b: Self::V, value: Self::V) -> Self::V;
    /// What of `then` stands where `a` is less than `b`, and what of `otherwise` does elsewhere.
    fn if_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V;
    /// 2 to a whole number between -126 and 127.
    fn exp2(self, whole: Self::V) -> Self::V;
    /// Four whole numbers between 0 and 255 for each lane, as bytes.
    fn to_bytes(self, four: [Self::V; 4]) -> Lane<[u8; 4]>;
    /// The sum by halves: lanes 8 apart, then 4, 2 and 1.
    fn sum(self, value: Self::V) -> f32;
    /// sum + a · b of sixteen pairs of bf16 and one. Only if [`Self::BF16`].
    fn dot_bf16(self, sum: Self::V, a: &Lane<[u16; 2]>, b: [u16; 2]) -> Self::V;

    fn bytes(self, from: &Lane<[u8; 4]>) -> Self::B;
    fn low_nibbles(self, bytes: Self::B) -> Self::B;
    fn high_nibbles(self, bytes: Self::B) -> Self::B;
    fn zeros(self) -> Self::I;
    /// sum + a · b of sixteen times four numbers, none above 15, and four.
    fn dot_nibbles(self, sum: Self::I, a: Self::B, b: [i8; 4]) -> Self::I;
    /// What a sum of [`Self::dot_biased`] begins with; `bias` is -128 times the sum of all `b`.
    fn start(self, bias: i32) -> Self::I;
    /// sum + (a - 128) · b of sixteen times four numbers and four, of which none is -128.
    fn dot_biased(self, sum: Self::I, a: Self::B, b: [i8; 4]) -> Self::I;
    fn to_f32(self, whole: Self::I) -> Self::V;

    /// For each of `N` tokens the sum of eight steps of [`Self::dot_biased`].
    #[inline(always)]
    fn dot_biased_block<const N: usize>(
        self,
        biases: [i32; N],
        a: &[Lane<[u8; 4]>; 8],
        b: &[[[i8; 4]; N]; 8],
    ) -> [Self::I; N] {
        dot_biased_rows(self, biases, a, b)
    }

    /// For each of `N` tokens the sum of eight steps of [`Self::dot_nibbles`] with the high or the low halves of `a`.
    #[inline(always)]
    fn dot_nibbles_block<const N: usize>(
        self,
        high: bool,
        a: &[Lane<[u8; 4]>; 8],
        b: &[[[i8; 4]; N]; 8],
    ) -> [Self::I; N] {
        let mut sums = [self.zeros(); N];
        for (a, b) in a.iter().zip(b) {
            let a = self.bytes(a);
            let a = if high { self.high_nibbles(a) } else { self.low_nibbles(a) };
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = self.dot_nibbles(*sum, a, *b);
            }
        }
        sums
    }

    /// Eight words of four bytes from each of sixteen rows, which begin `stride` bytes apart in `from`: for each of the eight,
    /// sixteen rows.
    ///
    /// # Panics
    /// `from` ends before the last row does.
    fn transpose(self, from: &[u8], stride: usize, to: &mut [Lane<[u8; 4]>; 8]);
}

/// [`Simd::dot_biased_block`], all sixteen rows of a step at a time.
#[inline(always)]
pub(super) fn dot_biased_rows<S: Simd, const N: usize>(
    simd: S,
    biases: [i32; N],
    a: &[Lane<[u8; 4]>; 8],
    b: &[[[i8; 4]; N]; 8],
) -> [S::I; N] {
    let mut sums = biases.map(|bias| simd.start(bias));
    for (a, b) in a.iter().zip(b) {
        let a = simd.bytes(a);
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum = simd.dot_biased(*sum, a, *b);
        }
    }
    sums
}

/// Code that is compiled for every instruction set.
pub(crate) trait Kernel {
    /// Must be `#[inline(always)]`, as all that it calls: only so the instructions are used.
    fn run<S: Simd>(self, simd: S);
}

/// Plain code, for every machine; the reference for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Portable;

impl Simd for Portable {
    type V = Lane<f32>;
    type I = Lane<i32>;
    type B = Lane<[u8; 4]>;
    const WIDE: bool = false;
    const BF16: bool = false;

    #[inline(always)]
    fn prefetch<T>(self, _: &Lane<T>) {}

    #[inline(always)]
    fn splat(self, value: f32) -> Self::V {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &Lane<f32>) -> Self::V {
        *from
    }

    #[inline(always)]
    fn load_f16(self, from: &Lane<u16>) -> Self::V {
        from.map(|bits| half::f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn load_u8(self, from: &Lane<u8>) -> Self::V {
        from.map(f32::from)
    }

    #[inline(always)]
    fn load_pairs(self, from: &Lane<[u16; 2]>) -> [Self::V; 2] {
        [0, 1].map(|which| from.map(|pair| f32::from_bits(u32::from(pair[which]) << 16)))
    }

    #[inline(always)]
    fn store(self, value: Self::V, to: &mut Lane<f32>) {
        *to = value;
    }

    #[inline(always)]
    fn to_f16(self, value: Self::V) -> Lane<u16> {
        value.map(|number| half::f16::from_f32(number).to_bits())
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|lane| a[lane] - b[lane])
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
    fn floor(self, value: Self::V) -> Self::V {
        value.map(f32::floor)
    }

    #[inline(always)]
    fn at_least(self, a: Self::V, b: Self::V, value: Self::V) -> Self::V {
        std::array::from_fn(|lane| if a[lane] >= b[lane] { value[lane] } else { 0.0 })
    }

    #[inline(always)]
    fn if_less(self, a: Self::V, b: Self::V, then: Self::V, otherwise: Self::V) -> Self::V {
        std::array::from_fn(|lane| if a[lane] < b[lane] { then[lane] } else { otherwise[lane] })
    }

    #[inline(always)]
    fn to_bytes(self, four: [Self::V; 4]) -> Lane<[u8; 4]> {
        std::array::from_fn(|lane| four.map(|column| column[lane] as u8))
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
    fn dot_bf16(self, sum: Self::V, a: &Lane<[u16; 2]>, b: [u16; 2]) -> Self::V {
        let ([first, second], b) = (self.load_pairs(a), b.map(|bits| f32::from_bits(u32::from(bits) << 16)));
        std::array::from_fn(|lane| sum[lane] + first[lane] * b[0] + second[lane] * b[1])
    }

    #[inline(always)]
    fn bytes(self, from: &Lane<[u8; 4]>) -> Self::B {
        *from
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: Self::B) -> Self::B {
        bytes.map(|four| four.map(|byte| byte & 15))
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: Self::B) -> Self::B {
        bytes.map(|four| four.map(|byte| byte >> 4))
    }

    #[inline(always)]
    fn zeros(self) -> Self::I {
        [0; LANES]
    }

    #[inline(always)]
    fn dot_nibbles(self, sum: Self::I, a: Self::B, b: [i8; 4]) -> Self::I {
        std::array::from_fn(|lane| {
            let products: [i32; 4] = std::array::from_fn(|at| i32::from(a[lane][at]) * i32::from(b[at]));
            sum[lane] + products.iter().sum::<i32>()
        })
    }

    #[inline(always)]
    fn start(self, bias: i32) -> Self::I {
        [bias; LANES]
    }

    #[inline(always)]
    fn dot_biased(self, sum: Self::I, a: Self::B, b: [i8; 4]) -> Self::I {
        self.dot_nibbles(sum, a, b)
    }

    #[inline(always)]
    fn to_f32(self, whole: Self::I) -> Self::V {
        whole.map(|whole| whole as f32)
    }

    #[inline(always)]
    fn transpose(self, from: &[u8], stride: usize, to: &mut [Lane<[u8; 4]>; 8]) {
        for row in 0..LANES {
            for (to, word) in to.iter_mut().zip(from[row * stride..][..32].as_chunks::<4>().0) {
                to[row] = *word;
            }
        }
    }
}
