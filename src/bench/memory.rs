//! What the memory gives, and what the process has taken of it.
//!
//! Must not touch: the model.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

/// Far more than any cache holds, in numbers of eight bytes: a gigabyte.
const NUMBERS: usize = 1 << 27;
/// What a thread reads at a time, in numbers.
const PIECE: usize = 1 << 16;
/// How often the memory is read; the best counts, since nothing makes memory faster than it is.
const READS: usize = 5;

/// How many bytes a second the threads of this pool read together.
pub(super) fn read_bandwidth() -> f64 {
    let numbers = vec![1_u64; NUMBERS];
    let read = || {
        let began = Instant::now();
        let sum = |piece: &[u64]| piece.iter().fold(0_u64, |sum, number| sum.wrapping_add(*number));
        black_box(black_box(&numbers).par_chunks(PIECE).map(sum).reduce(|| 0, u64::wrapping_add));
        size_of_val(numbers.as_slice()) as f64 / began.elapsed().as_secs_f64()
    };
    (0..READS).map(|_| read()).fold(0.0, f64::max)
}

/// The most bytes of memory that this process has had, where the system says so.
pub(super) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
