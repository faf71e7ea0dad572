//! Packs quantized rows from ggml's blocks into the order in which a device reads them: `weights.cuh`.

use half::f16;

/// Columns of a block of q8_0, which share a scale.
pub const GROUP: usize = 32;
/// Columns of a block of q4k.
pub const BLOCK: usize = 256;
/// Bytes of a block of q8_0: the scale and the quants.
const GROUP_BYTES: usize = 2 + GROUP;
/// What a block of q4k begins with: two f16, and eight scales and minima of six bits.
const HEAD_BYTES: usize = 16;
const BLOCK_BYTES: usize = HEAD_BYTES + BLOCK / 2;
/// Columns of a group that are read together.
const QUARTER: usize = 8;

/// Words of quants of a row of `columns` in q8_0, and words of scales.
pub fn q8_0_words(columns: usize) -> [usize; 2] {
    let pairs = columns.div_ceil(2 * GROUP);
    [pairs * 2 * GROUP / 4, pairs]
}

/// As [`q8_0_words`], in q4k.
pub fn q4k_words(columns: usize) -> [usize; 2] {
    [columns / 8, columns / BLOCK * HEAD_BYTES / 4]
}

/// Numbers as blocks of q8_0: the nearest of 255 equidistant numbers for each of a group, and the group's scale. What is
/// not finite makes a scale that is not: it must not turn into a plausible weight.
pub fn quantize_q8_0(numbers: &[f32]) -> Vec<u8> {
    let mut blocks = Vec::with_capacity(numbers.len() / GROUP * GROUP_BYTES);
    for group in numbers.chunks_exact(GROUP) {
        let largest = group.iter().fold(0.0f32, |largest, number| {
            if number.is_finite() { largest.max(number.abs()) } else { f32::INFINITY }
        });
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        blocks.extend(f16::from_f32(largest / 127.0).to_le_bytes());
        blocks.extend(group.iter().map(|number| ((number * inverse).round() as i8).cast_unsigned()));
    }
    blocks
}

/// Whole rows of `columns`, in blocks of q8_0, as bytes of quants and of scales. Two groups lie together, the second of the
/// last two may be zeros: eight columns of the one and eight of the other by turns.
pub fn arrange_q8_0(columns: usize, blocks: &[u8]) -> [Vec<u8>; 2] {
    let (mut quants, mut scales) = (Vec::with_capacity(blocks.len()), Vec::new());
    let none = [0; GROUP_BYTES];
    for row in blocks.chunks_exact((columns / GROUP * GROUP_BYTES).max(1)) {
        for pair in row.as_chunks::<GROUP_BYTES>().0.chunks(2) {
            let groups = [pair.first().unwrap_or(&none), pair.get(1).unwrap_or(&none)];
            for [a, b, ..] in groups {
                scales.extend([*a, *b]);
            }
            for quarter in 0..GROUP / QUARTER {
                let first = 2 + quarter * QUARTER;
                groups.iter().for_each(|group| quants.extend_from_slice(&group[first..first + QUARTER]));
            }
        }
    }
    [quants, scales]
}

/// Blocks of q4k as bytes of quants and of heads. Four groups lie together: a word for eight columns of each, by turns; its
/// lower half has the columns 0, 2, 4 and 6.
pub fn arrange_q4k(blocks: &[u8]) -> [Vec<u8>; 2] {
    let (mut quants, mut heads) = (Vec::with_capacity(blocks.len()), Vec::new());
    for block in blocks.as_chunks::<BLOCK_BYTES>().0 {
        let (head, packed) = block.split_at(HEAD_BYTES);
        heads.extend_from_slice(head);
        // Of each 32 bytes the lower halves are a group, and the upper halves the next one.
        let quant = |column: usize| {
            let (group, at) = (column / GROUP, column % GROUP);
            u32::from(packed[group / 2 * GROUP + at] >> (group % 2 * 4) & 15)
        };
        for four in 0..2 {
            for quarter in 0..GROUP / QUARTER {
                for group in 0..4 {
                    let first = (four * 4 + group) * GROUP + quarter * QUARTER;
                    let place = |at: usize| quant(first + at) << (at / 2 * 4 + at % 2 * 16);
                    let word: u32 = (0..QUARTER).map(place).sum();
                    quants.extend(word.to_le_bytes());
                }
            }
        }
    }
    [quants, heads]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quant_of_eight_bits_is_where_its_lane_reads_it() {
        let blocks: Vec<u8> = (0..6u8)
            .flat_map(|block| {
                [100 + block, 200 + block].into_iter().chain((0..32).map(move |at| block * 32 + at))
            })
            .collect();
        // Two rows of three groups, so of two pairs each.
        let [quants, scales] = arrange_q8_0(96, &blocks);
        assert_eq!([quants.len() / 4, scales.len() / 4], q8_0_words(96).map(|words| 2 * words));
        assert_eq!(
            quants[..24],
            [0, 1, 2, 3, 4, 5, 6, 7, 32, 33, 34, 35, 36, 37, 38, 39, 8, 9, 10, 11, 12, 13, 14, 15]
        );
        assert_eq!(quants[64..80], [64, 65, 66, 67, 68, 69, 70, 71, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(quants[128..130], [96, 97]);
        assert_eq!(scales[..8], [100, 200, 101, 201, 102, 202, 0, 0]);
    }

    #[test]
    fn every_quant_of_four_bits_is_where_its_lane_reads_it() {
        let mut block = vec![7; HEAD_BYTES];
        // The first group counts up, the second down, the others are the number of their pair.
        block.extend((0..32u8).map(|at| (at % 16) | ((15 - at % 16) << 4)));
        block.extend([1, 2, 3].into_iter().flat_map(|pair| [pair * 17; 32]));
        let [quants, heads] = arrange_q4k(&block);
        assert_eq!([quants.len() / 4, heads.len() / 4], q4k_words(BLOCK));
        let words: Vec<u32> = quants.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
        assert_eq!(words[..4], [0x7531_6420, 0x8ace_9bdf, 0x1111_1111, 0x1111_1111]);
        assert_eq!(words[4], 0xfdb9_eca8, "the second quarter");
        assert_eq!(words[16..20], [0x2222_2222, 0x2222_2222, 0x3333_3333, 0x3333_3333]);
        assert_eq!(heads, [7; 16]);
    }

    #[test]
    fn numbers_become_the_nearest_quants_and_no_plausible_ones() {
        let mut numbers = [0.0; 64];
        (numbers[0], numbers[1], numbers[2]) = (-2.54, 1.0, 0.011);
        numbers[40] = f32::NAN;
        let blocks = quantize_q8_0(&numbers);
        assert_eq!(blocks.len(), 2 * GROUP_BYTES);
        assert_eq!(f16::from_le_bytes([blocks[0], blocks[1]]), f16::from_f32(0.02));
        assert_eq!(blocks[2..6], [129, 50, 1, 0]);
        assert!(!f16::from_le_bytes([blocks[34], blocks[35]]).is_finite());
    }
}
