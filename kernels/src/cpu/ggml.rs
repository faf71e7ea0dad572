//! Numbers as files hold them: floats, and ggml's blocks of 32 or 256 quantised ones. Little endian.
//!
//! Must not touch: how weights lie in memory.

use half::{bf16, f16};

/// Weights of one block of [`Source::Q8_0`].
pub(super) const SMALL: usize = 32;
/// Weights of one block of the K types.
pub(super) const LARGE: usize = 256;

/// How weights are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// 32 i8 and an f16 scale.
    Q8_0,
    /// 256 times 4 bits; for every 32 a scale and a minimum of 6 bits, which are multiples of two f16.
    Q4K,
    /// 256 times 6 bits; for every 16 a scale of 8 bits, which is a multiple of an f16.
    Q6K,
}

impl Source {
    /// How many numbers are written together, and in how many bytes.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q8_0 => (SMALL, 2 + SMALL),
            Self::Q4K => (LARGE, 4 + 12 + LARGE / 2),
            Self::Q6K => (LARGE, LARGE / 2 + LARGE / 4 + LARGE / 16 + 2),
        }
    }

    /// How many bytes `count` numbers take, if whole blocks make so many.
    pub fn bytes(self, count: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        if count.is_multiple_of(numbers) { (count / numbers).checked_mul(bytes) } else { None }
    }

    /// How many numbers so many `bytes` are.
    pub fn numbers(self, bytes: usize) -> usize {
        let (numbers, length) = self.block();
        bytes / length * numbers
    }

    /// The numbers that `bytes` are. Bytes that make no whole block are ignored.
    pub fn read(self, bytes: &[u8], to: &mut [f32]) {
        match self {
            Self::F32 => plain(bytes, to, f32::from_le_bytes),
            Self::F16 => plain(bytes, to, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16 => plain(bytes, to, |bytes| bf16::from_le_bytes(bytes).to_f32()),
            Self::Q8_0 => self.blocks(bytes, to, read_q8),
            Self::Q4K => self.blocks(bytes, to, read_q4k),
            Self::Q6K => self.blocks(bytes, to, read_q6k),
        }
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

fn read_q8(block: &[u8], to: &mut [f32]) {
    let (scale, quants) = block.split_at(2);
    let scale = half(scale);
    for (to, quant) in to.iter_mut().zip(quants) {
        *to = scale * f32::from(quant.cast_signed());
    }
}

/// The parts of a block of [`Source::Q4K`].
pub(super) struct FourBits<'a> {
    /// What the scales and the minima are multiples of, as f16.
    pub(super) units: [u16; 2],
    /// For every 32 numbers.
    pub(super) scales: [u8; 8],
    /// What is subtracted from every 32 numbers.
    pub(super) minima: [u8; 8],
    /// Of each 32 bytes, the lower halves are 32 numbers and the upper halves the next 32.
    pub(super) quants: &'a [u8],
}

impl<'a> FourBits<'a> {
    pub(super) fn split(block: &'a [u8]) -> Option<Self> {
        let (&[d0, d1, m0, m1], rest) = block.split_first_chunk()?;
        let (packed, quants) = rest.split_first_chunk::<12>()?;
        let (mut scales, mut minima) = ([0; 8], [0; 8]);
        for at in 0..4 {
            // Six bits of the first four; the upper two bits of a byte belong to the last four.
            let (scale, minimum, lower) = (packed[at], packed[at + 4], packed[at + 8]);
            (scales[at], minima[at]) = (scale & 63, minimum & 63);
            scales[at + 4] = lower & 15 | scale >> 6 << 4;
            minima[at + 4] = lower >> 4 | minimum >> 6 << 4;
        }
        let units = [u16::from_le_bytes([d0, d1]), u16::from_le_bytes([m0, m1])];
        Some(Self { units, scales, minima, quants })
    }
}

fn read_q4k(block: &[u8], to: &mut [f32]) {
    let Some(block) = FourBits::split(block) else { return };
    let [scale, minimum] = block.units.map(|bits| f16::from_bits(bits).to_f32());
    for (at, (to, quants)) in to.chunks_mut(64).zip(block.quants.chunks(32)).enumerate() {
        for (half, to) in to.chunks_mut(32).enumerate() {
            let scale = scale * f32::from(block.scales[2 * at + half]);
            let minimum = minimum * f32::from(block.minima[2 * at + half]);
            for (to, quant) in to.iter_mut().zip(quants) {
                *to = scale * f32::from(quant >> (4 * half) & 15) - minimum;
            }
        }
    }
}

/// Each half of the block has 64 bytes of lower bits, each two numbers that lie 64 apart, and 32 of upper ones, each
/// four numbers that lie 32 apart.
fn read_q6k(block: &[u8], to: &mut [f32]) {
    let (lower, rest) = block.split_at(LARGE / 2);
    let (upper, rest) = rest.split_at(LARGE / 4);
    let (scales, unit) = rest.split_at(LARGE / 16);
    let unit = half(unit);
    for (number, to) in to.iter_mut().enumerate() {
        let (which, at) = (number / 128, number % 128);
        let low = lower[which * 64 + at % 64] >> (at / 64 * 4) & 15;
        let high = upper[which * 32 + at % 32] >> (at / 32 * 2) & 3;
        let quant = i32::from(low | high << 4) - 32;
        *to = unit * f32::from(scales[number / 16].cast_signed()) * quant as f32;
    }
}
