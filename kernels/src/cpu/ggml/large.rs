//! Blocks of 256 numbers, whose parts have scales that are multiples of one for the block.

use half::f16;

use super::small::values;
use super::{LARGE, SMALL, half, push_q8_0};

/// Numbers that share a scale in the types that have one for every 16.
const SIXTEEN: usize = 16;

/// The parts of a block of [`super::Source::Q4K`].
pub(in crate::cpu) struct FourBits<'a> {
    /// What the scales and the minima are multiples of, as f16.
    pub(in crate::cpu) units: [u16; 2],
    /// For every 32 numbers.
    pub(in crate::cpu) scales: [u8; 8],
    /// What is subtracted from every 32 numbers.
    pub(in crate::cpu) minima: [u8; 8],
    /// Of each 32 bytes, the lower halves are 32 numbers and the upper halves the next 32.
    pub(in crate::cpu) quants: &'a [u8],
}

impl<'a> FourBits<'a> {
    pub(in crate::cpu) fn split(block: &'a [u8]) -> Option<Self> {
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

pub(super) fn read_q4k(block: &[u8], to: &mut [f32]) {
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

/// As [`FourBits`], but that the quants are preceded by their fifth bits: bit n of byte m is that of number m of the
/// n-th 32.
pub(super) fn read_q5k(block: &[u8], to: &mut [f32]) {
    let Some(FourBits { units, scales, minima, quants }) = FourBits::split(block) else { return };
    let (fifths, quants) = quants.split_at(LARGE / 8);
    let [unit, minimum_unit] = units.map(|bits| f16::from_bits(bits).to_f32());
    for (group, to) in to.chunks_mut(SMALL).enumerate() {
        let scale = unit * f32::from(scales[group]);
        let minimum = minimum_unit * f32::from(minima[group]);
        let quants = &quants[group / 2 * SMALL..];
        for ((to, quant), fifth) in to.iter_mut().zip(quants).zip(fifths) {
            let quant = quant >> (group % 2 * 4) & 15 | (fifth >> group & 1) << 4;
            *to = scale * f32::from(quant) - minimum;
        }
    }
}

/// Two bits of each number: 32 bytes for each half of the block, in each byte four numbers that lie 32 apart.
fn two_bits(packed: &[u8], number: usize) -> u8 {
    packed[number / 128 * SMALL + number % SMALL] >> (number % 128 / SMALL * 2) & 3
}

/// The lower half of a byte of scales is a scale, the upper half a minimum.
pub(super) fn read_q2k(block: &[u8], to: &mut [f32]) {
    let (scales, rest) = block.split_at(LARGE / SIXTEEN);
    let (quants, units) = rest.split_at(LARGE / 4);
    let [unit, minimum_unit] = [half(units), half(&units[2..])];
    for (number, to) in to.iter_mut().enumerate() {
        let scale = scales[number / SIXTEEN];
        let (scale, minimum) = (unit * f32::from(scale & 15), minimum_unit * f32::from(scale >> 4));
        *to = scale * f32::from(two_bits(quants, number)) - minimum;
    }
}

/// The third bits come first: bit n of byte m is that of number m of the n-th 32. Of the twelve bytes of scales, the
/// first eight hold the lower four bits of two each, the last four the upper two bits of four each.
pub(super) fn read_q3k(block: &[u8], to: &mut [f32]) {
    let (thirds, rest) = block.split_at(LARGE / 8);
    let (quants, rest) = rest.split_at(LARGE / 4);
    let (packed, unit) = rest.split_at(12);
    let unit = half(unit);
    for (group, to) in to.chunks_mut(SIXTEEN).enumerate() {
        let lower = packed[group % 8] >> (group / 8 * 4) & 15;
        let upper = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let scale = unit * f32::from((lower | upper << 4).cast_signed() - 32);
        for (at, to) in to.iter_mut().enumerate() {
            let number = group * SIXTEEN + at;
            let third = thirds[number % SMALL] >> (number / SMALL) & 1;
            let quant = (two_bits(quants, number) | third << 2).cast_signed() - 4;
            *to = scale * f32::from(quant);
        }
    }
}

/// The scale and the quants of every 32 numbers. The lower four bits of the scales lie two in a byte, the upper two
/// bits of all eight in the two bytes before them.
fn iq4_xs(block: &[u8]) -> impl Iterator<Item = (f32, [i8; SMALL])> {
    let (head, rest) = block.split_at(4);
    let (lower, quants) = rest.split_at(LARGE / 64);
    let (unit, upper) = (half(head), u16::from_le_bytes([head[2], head[3]]));
    quants.chunks(SMALL / 2).enumerate().map(move |(group, packed)| {
        let lower = lower[group / 2] >> (group % 2 * 4) & 15;
        let scale = (lower | ((upper >> (2 * group) & 3) as u8) << 4).cast_signed() - 32;
        (unit * f32::from(scale), values(packed))
    })
}

pub(super) fn read_iq4_xs(block: &[u8], to: &mut [f32]) {
    for (to, (scale, quants)) in to.chunks_mut(SMALL).zip(iq4_xs(block)) {
        to.iter_mut().zip(quants).for_each(|(to, quant)| *to = scale * f32::from(quant));
    }
}

pub(super) fn iq4_xs_as_q8_0(block: &[u8], to: &mut Vec<u8>) {
    for (scale, quants) in iq4_xs(block) {
        push_q8_0(f16::from_f32(scale).to_le_bytes(), &quants, to);
    }
}

/// Each half of the block has 64 bytes of lower bits, each two numbers that lie 64 apart, and 32 of upper ones, each
/// four numbers that lie 32 apart.
pub(super) fn read_q6k(block: &[u8], to: &mut [f32]) {
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
