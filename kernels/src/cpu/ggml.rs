//! Types of numbers in files: floats, and ggml's blocks of 32 or 256 quantized ones. Little endian.

mod large;
mod small;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use half::f16;

pub(super) use self::large::FourBits;

/// Weights of one block of the types with 32 of them.
pub(super) const SMALL: usize = 32;
/// Weights of one block of the K types and of [`Source::Iq4Xs`].
pub(super) const LARGE: usize = 256;
/// Bytes of a block of [`Source::Q8_0`].
pub(super) const Q8_0_BYTES: usize = 2 + SMALL;

/// The type of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// An f16 scale and 32 times 4 bits, less 8.
    Q4_0,
    /// An f16 scale, an f16 minimum, and 32 times 4 bits.
    Q4_1,
    /// As [`Source::Q4_0`] with 5 bits, less 16; the fifth bits lie together.
    Q5_0,
    /// As [`Source::Q4_1`] with 5 bits.
    Q5_1,
    /// 32 i8 and an f16 scale.
    Q8_0,
    /// 256 times 2 bits; for every 16 a scale and a minimum of 4 bits, which are multiples of two f16.
    Q2K,
    /// 256 times 3 bits, less 4; for every 16 a scale of 6 bits, less 32, which is a multiple of an f16.
    Q3K,
    /// 256 times 4 bits; for every 32 a scale and a minimum of 6 bits, which are multiples of two f16.
    Q4K,
    /// As [`Source::Q4K`] with 5 bits.
    Q5K,
    /// 256 times 6 bits; for every 16 a scale of 8 bits, which is a multiple of an f16.
    Q6K,
    /// An f16 scale and 32 times 4 bits, each of which stands for one of sixteen i8.
    Iq4Nl,
    /// 256 times 4 bits as in [`Source::Iq4Nl`]; for every 32 a scale of 6 bits, less 32, which is a multiple of an f16.
    Iq4Xs,
}

impl Source {
    /// Whether numbers come in blocks with scales.
    pub fn is_quantized(self) -> bool {
        self.block().0 > 1
    }

    /// How many numbers are written together, and in how many bytes.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 | Self::Iq4Nl => (SMALL, 2 + SMALL / 2),
            Self::Q4_1 => (SMALL, 2 + 2 + SMALL / 2),
            Self::Q5_0 => (SMALL, 2 + 4 + SMALL / 2),
            Self::Q5_1 => (SMALL, 2 + 2 + 4 + SMALL / 2),
            Self::Q8_0 => (SMALL, Q8_0_BYTES),
            Self::Q2K => (LARGE, LARGE / 16 + LARGE / 4 + 4),
            Self::Q3K => (LARGE, LARGE / 8 + LARGE / 4 + 12 + 2),
            Self::Q4K => (LARGE, 4 + 12 + LARGE / 2),
            Self::Q5K => (LARGE, 4 + 12 + LARGE / 8 + LARGE / 2),
            Self::Q6K => (LARGE, LARGE / 2 + LARGE / 4 + LARGE / 16 + 2),
            Self::Iq4Xs => (LARGE, 2 + 2 + LARGE / 64 + LARGE / 2),
        }
    }

    /// The bytes of `count` numbers, if these are whole blocks.
    pub fn bytes(self, count: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        if count.is_multiple_of(numbers) { (count / numbers).checked_mul(bytes) } else { None }
    }

    /// The count of numbers in `bytes`.
    pub fn numbers(self, bytes: usize) -> usize {
        let (numbers, length) = self.block();
        bytes / length * numbers
    }

    /// The numbers that `bytes` are. Bytes that make no whole block are ignored.
    pub fn read(self, bytes: &[u8], to: &mut [f32]) {
        match self {
            Self::F32 => plain(bytes, to, f32::from_le_bytes),
            Self::F16 => plain(bytes, to, |bytes| f16::from_le_bytes(bytes).to_f32()),
            // The upper half of an f32. `bf16::to_f32` sets a bit of what is no number, which costs a branch for each.
            Self::Bf16 => {
                plain(bytes, to, |bytes| f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
            }
            Self::Q4_0 => self.blocks(bytes, to, small::read_q4_0),
            Self::Q4_1 => self.blocks(bytes, to, small::read_q4_1),
            Self::Q5_0 => self.blocks(bytes, to, small::read_q5_0),
            Self::Q5_1 => self.blocks(bytes, to, small::read_q5_1),
            Self::Q8_0 => self.blocks(bytes, to, small::read_q8_0),
            Self::Q2K => self.blocks(bytes, to, large::read_q2k),
            Self::Q3K => self.blocks(bytes, to, large::read_q3k),
            Self::Q4K => self.blocks(bytes, to, large::read_q4k),
            Self::Q5K => self.blocks(bytes, to, large::read_q5k),
            Self::Q6K => self.blocks(bytes, to, large::read_q6k),
            Self::Iq4Nl => self.blocks(bytes, to, small::read_iq4_nl),
            Self::Iq4Xs => self.blocks(bytes, to, large::read_iq4_xs),
        }
    }

    /// The numbers that `bytes` are, as [`Source::read`].
    pub fn to_f32(self, bytes: &[u8]) -> Vec<f32> {
        let mut numbers = vec![0.0; self.numbers(bytes.len())];
        self.read(bytes, &mut numbers);
        numbers
    }

    /// `bytes` as blocks of [`Source::Q8_0`], if every 32 numbers are whole multiples of one scale and fit into 8 bits:
    /// then they keep their values. Only the scales of [`Source::Iq4Xs`], which are products, are rounded to f16.
    pub fn as_q8_0(self, bytes: &[u8]) -> Option<Cow<'_, [u8]>> {
        let write = match self {
            Self::Q8_0 => return Some(Cow::Borrowed(bytes)),
            Self::Q4_0 => small::q4_0_as_q8_0,
            Self::Q5_0 => small::q5_0_as_q8_0,
            Self::Iq4Nl => small::iq4_nl_as_q8_0,
            Self::Iq4Xs => large::iq4_xs_as_q8_0,
            _ => return None,
        };
        let (numbers, length) = self.block();
        let mut blocks = Vec::with_capacity(bytes.len() / length * (numbers / SMALL) * Q8_0_BYTES);
        bytes.chunks_exact(length).for_each(|block| write(block, &mut blocks));
        Some(Cow::Owned(blocks))
    }

    fn blocks(self, bytes: &[u8], to: &mut [f32], read: fn(&[u8], &mut [f32])) {
        let (numbers, length) = self.block();
        for (block, to) in bytes.chunks_exact(length).zip(to.chunks_mut(numbers)) {
            read(block, to);
        }
    }
}

fn plain<const N: usize>(bytes: &[u8], to: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (to, bytes) in to.iter_mut().zip(bytes.as_chunks().0) {
        *to = read(*bytes);
    }
}

/// The f16 that `bytes` begin with.
fn half(bytes: &[u8]) -> f32 {
    match *bytes {
        [a, b, ..] => f16::from_le_bytes([a, b]).to_f32(),
        _ => f32::NAN,
    }
}

/// Adds a block of [`Source::Q8_0`] to `to`.
fn push_q8_0(scale: [u8; 2], quants: &[i8; SMALL], to: &mut Vec<u8>) {
    to.extend(scale);
    to.extend(quants.map(i8::cast_unsigned));
}
