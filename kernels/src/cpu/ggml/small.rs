//! Blocks of 32 numbers with a scale of their own.

use super::{SMALL, half, push_q8_0};

/// What the four bits of [`super::Source::Iq4Nl`] and [`super::Source::Iq4Xs`] stand for: close together around zero,
/// where most weights are. ggml's `kvalues_iq4nl`.
const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 quants: the lower halves of 16 bytes are the first 16, the upper halves the rest. Bit n of `fifths` is the fifth
/// of quant n.
fn unpack(packed: &[u8], fifths: u32) -> [u8; SMALL] {
    let mut quants = [0; SMALL];
    let (first, last) = quants.split_at_mut(SMALL / 2);
    for (at, ((first, last), byte)) in first.iter_mut().zip(last).zip(packed).enumerate() {
        *first = byte & 15 | ((fifths >> at & 1) as u8) << 4;
        *last = byte >> 4 | ((fifths >> (at + SMALL / 2) & 1) as u8) << 4;
    }
    quants
}

/// As [`unpack`], each as what it stands for.
pub(super) fn values(packed: &[u8]) -> [i8; SMALL] {
    unpack(packed, 0).map(|quant| VALUES[usize::from(quant & 15)])
}

/// `N` bytes, and what follows them. Blocks are as long as their type says.
fn split<const N: usize>(block: &[u8]) -> ([u8; N], &[u8]) {
    block.split_first_chunk().map_or(([0; N], &[]), |(first, rest)| (*first, rest))
}

fn q4_0(block: &[u8]) -> ([u8; 2], [i8; SMALL]) {
    let (scale, packed) = split(block);
    (scale, unpack(packed, 0).map(|quant| quant.cast_signed() - 8))
}

fn q5_0(block: &[u8]) -> ([u8; 2], [i8; SMALL]) {
    let (scale, rest) = split(block);
    let (fifths, packed) = split(rest);
    (scale, unpack(packed, u32::from_le_bytes(fifths)).map(|quant| quant.cast_signed() - 16))
}

fn iq4_nl(block: &[u8]) -> ([u8; 2], [i8; SMALL]) {
    let (scale, packed) = split(block);
    (scale, values(packed))
}

/// Quants times a scale.
fn scaled((scale, quants): ([u8; 2], [i8; SMALL]), to: &mut [f32]) {
    let scale = half(&scale);
    to.iter_mut().zip(quants).for_each(|(to, quant)| *to = scale * f32::from(quant));
}

/// Quants times a scale, and a minimum.
fn shifted(scale: f32, minimum: f32, quants: [u8; SMALL], to: &mut [f32]) {
    to.iter_mut().zip(quants).for_each(|(to, quant)| *to = scale * f32::from(quant) + minimum);
}

pub(super) fn read_q4_0(block: &[u8], to: &mut [f32]) {
    scaled(q4_0(block), to);
}

pub(super) fn read_q4_1(block: &[u8], to: &mut [f32]) {
    let (head, packed) = split::<4>(block);
    shifted(half(&head), half(&head[2..]), unpack(packed, 0), to);
}

pub(super) fn read_q5_0(block: &[u8], to: &mut [f32]) {
    scaled(q5_0(block), to);
}

pub(super) fn read_q5_1(block: &[u8], to: &mut [f32]) {
    let (head, rest) = split::<4>(block);
    let (fifths, packed) = split(rest);
    shifted(half(&head), half(&head[2..]), unpack(packed, u32::from_le_bytes(fifths)), to);
}

pub(super) fn read_q8_0(block: &[u8], to: &mut [f32]) {
    let (scale, quants) = block.split_at(2);
    let scale = half(scale);
    for (to, quant) in to.iter_mut().zip(quants) {
        *to = scale * f32::from(quant.cast_signed());
    }
}

pub(super) fn read_iq4_nl(block: &[u8], to: &mut [f32]) {
    scaled(iq4_nl(block), to);
}

pub(super) fn q4_0_as_q8_0(block: &[u8], to: &mut Vec<u8>) {
    let (scale, quants) = q4_0(block);
    push_q8_0(scale, &quants, to);
}

pub(super) fn q5_0_as_q8_0(block: &[u8], to: &mut Vec<u8>) {
    let (scale, quants) = q5_0(block);
    push_q8_0(scale, &quants, to);
}

pub(super) fn iq4_nl_as_q8_0(block: &[u8], to: &mut Vec<u8>) {
    let (scale, quants) = iq4_nl(block);
    push_q8_0(scale, &quants, to);
}
