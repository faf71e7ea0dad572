//! Memory bandwidth, and the peak memory of the process.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use codeseal_kernels::cuda::{Device, DeviceError};

/// Far more than any cache holds, in numbers of eight bytes: a gigabyte.
const NUMBERS: usize = 1 << 27;
/// What [`read_bandwidth`] takes, in bytes.
pub(super) const READ_BYTES: u64 = (NUMBERS * size_of::<u64>()) as u64;
/// What a thread reads at a time, in numbers.
const PIECE: usize = 1 << 16;
/// How often the memory is read. The fastest time counts: other work on the machine only makes it slower.
const READS: usize = 5;
/// Copies on a device that are measured together: starting one and waiting takes a moment too.
const COPIES: usize = 8;

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

/// How many bytes a second the memory of `device` gives: those that a copy reads and those that it writes.
pub(super) fn device_bandwidth(device: &impl Device) -> Result<f64, DeviceError> {
    // As much as there is of it, on a device that is full.
    let free = usize::try_from(device.free_bytes()?).unwrap_or(usize::MAX);
    let bytes = (size_of::<u64>() * NUMBERS).min(free / 4);
    let (from, mut to) = (device.allocate(bytes)?, device.allocate(bytes)?);
    let mut last = [0; 1];
    let mut best = 0.0f64;
    for _ in 0..READS {
        let began = Instant::now();
        for _ in 0..COPIES {
            device.copy(&from, &mut to, bytes)?;
        }
        // Waits for all of it.
        device.read(&to, 0, &mut last)?;
        best = best.max((2 * COPIES * bytes) as f64 / began.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// The most bytes of memory that this process has had, where the system says so.
pub(super) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
