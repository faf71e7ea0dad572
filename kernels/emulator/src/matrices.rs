//! Matrices of every type, and their weights dequantized by a plain implementation.

use codeseal_kernels::cuda::{BLOCK, GROUP, Matrix, Narrow, arrange_q4k, arrange_q8_0, quantize_q8_0};
use half::f16;

use crate::device::Emulator;
use crate::numbers::Numbers;
use crate::pages::From32;

/// Bytes of a block of ggml's Q8_0.
const GROUP_BYTES: usize = 2 + GROUP;

/// Words as a device reads them.
fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// A matrix of unquantized `weights`, row by row.
pub fn plain<T: Narrow + From32>(device: &Emulator, weights: &[f32], columns: usize) -> Matrix<Emulator, T> {
    let narrow: Vec<T> = weights.iter().map(|&weight| T::from32(weight)).collect();
    Matrix::plain(device.put(&narrow), columns).unwrap()
}

/// A matrix of Q8_0 blocks as ggml stores them.
pub fn q8_0<T: Narrow>(device: &Emulator, blocks: &[u8], columns: usize) -> Matrix<Emulator, T> {
    let [quants, scales] = arrange_q8_0(columns, blocks);
    Matrix::q8_0(device.put(&words(&quants)), device.put(&words(&scales)), columns).unwrap()
}

/// A matrix of Q4_K blocks as ggml stores them.
pub fn q4k<T: Narrow>(device: &Emulator, blocks: &[u8], columns: usize) -> Matrix<Emulator, T> {
    let [quants, heads] = arrange_q4k(blocks);
    Matrix::q4k(device.put(&words(&quants)), device.put(&words(&heads)), columns).unwrap()
}

/// A matrix of each type that its columns allow, and its weights as they are.
pub fn matrices<T: Narrow + From32>(
    device: &Emulator,
    numbers: &mut Numbers,
    rows: usize,
    columns: usize,
) -> Vec<(Matrix<Emulator, T>, Vec<f32>)> {
    let weights = numbers.normals(rows * columns, 1.0);
    let narrow = weights.iter().map(|&weight| T::from32(weight).to32()).collect();
    let mut all = vec![(plain(device, &weights, columns), narrow)];
    if columns.is_multiple_of(GROUP) {
        let blocks = quantize_q8_0(&weights);
        all.push((q8_0(device, &blocks, columns), read_q8_0(&blocks)));
    }
    if columns.is_multiple_of(BLOCK) {
        let blocks: Vec<u8> = (0..rows * columns / BLOCK).flat_map(|_| random_q4k_block(numbers)).collect();
        all.push((q4k(device, &blocks, columns), read_q4k(&blocks)));
    }
    all
}

fn read_q8_0(blocks: &[u8]) -> Vec<f32> {
    let blocks = blocks.as_chunks::<GROUP_BYTES>().0.iter();
    blocks
        .flat_map(|block| block[2..].iter().map(|&quant| half(block) * f32::from(quant.cast_signed())))
        .collect()
}

/// Every scale, minimum and quant there can be.
fn random_q4k_block(numbers: &mut Numbers) -> Vec<u8> {
    let units = [0.002, 0.01].map(|unit| f16::from_f32(unit * (1.0 + numbers.normal().abs())).to_le_bytes());
    units.into_iter().flatten().chain((0..140).map(|_| numbers.next_bits() as u8)).collect()
}

/// The format's definition: ggml's `dequantize_row_q4_K`, a number at a time.
fn read_q4k(blocks: &[u8]) -> Vec<f32> {
    let number = |block: &[u8], column: usize| {
        let (units, packed, quants) = (&block[..4], &block[4..16], &block[16..]);
        let group = column / 32;
        let [scale, minimum] = if group < 4 {
            [packed[group] & 63, packed[group + 4] & 63]
        } else {
            let both = packed[group + 4];
            [both & 15 | packed[group - 4] >> 6 << 4, both >> 4 | packed[group] >> 6 << 4]
        };
        let byte = quants[group / 2 * 32 + column % 32];
        let quant = byte >> (group % 2 * 4) & 15;
        half(units) * f32::from(scale) * f32::from(quant) - half(&units[2..]) * f32::from(minimum)
    };
    blocks.chunks_exact(144).flat_map(|block| (0..BLOCK).map(move |column| number(block, column))).collect()
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}
