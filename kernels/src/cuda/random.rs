//! Launches kernels that fill memory with random numbers: `random.cu`. For random weights.

use super::launch::{Arg, DeviceError, Launch, Shape, count, require};
use super::memory::ViewMut;
use super::narrow::Narrow;

const THREADS: u32 = 256;

/// Numbers from -`largest` to `largest`. There are a multiple of eight.
///
/// # Errors
/// There are not, or the launch failed.
pub fn draw<T: Narrow>(
    device: &impl Launch,
    largest: f32,
    seed: u32,
    to: &mut ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let kernel = T::DRAW;
    require(to.len().is_multiple_of(8), kernel, "numbers are not whole groups of 8")?;
    let eights = count(kernel, to.len() / 8)?;
    launch(device, kernel, eights, &[to.arg(), eights.into(), largest.into(), seed.into()])
}

/// Words of which each bit is drawn.
///
/// # Errors
/// The launch failed.
pub fn draw_words(device: &impl Launch, seed: u32, to: &mut ViewMut<'_, u32>) -> Result<(), DeviceError> {
    let kernel = "draw_words";
    let words = count(kernel, to.len())?;
    launch(device, kernel, words, &[to.arg(), words.into(), seed.into()])
}

/// The same four words again and again.
///
/// # Errors
/// The launch failed.
pub fn repeat_words(
    device: &impl Launch,
    words: [u32; 4],
    to: &mut ViewMut<'_, u32>,
) -> Result<(), DeviceError> {
    let kernel = "repeat_words";
    let all = count(kernel, to.len())?;
    let [a, b, c, d] = words.map(Arg::from);
    launch(device, kernel, all, &[to.arg(), all.into(), a, b, c, d])
}

/// One thread for each of `threads`.
fn launch(device: &impl Launch, kernel: &'static str, threads: u32, args: &[Arg]) -> Result<(), DeviceError> {
    if threads == 0 {
        return Ok(());
    }
    let shape = Shape { grid: [threads.div_ceil(THREADS), 1, 1], threads: THREADS, shared_bytes: 0 };
    // SAFETY: the callers' views are as large as they say, and are written by this launch alone.
    unsafe { device.launch(kernel, shape, args) }
}
