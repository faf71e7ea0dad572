//! Launches the feed-forward's activation: `geglu.cu`.
//!
//! Must not touch: the products before and after it.

use super::launch::{DeviceError, Launch, Shape, count, require};
use super::memory::{View, ViewMut};
use super::narrow::Narrow;

/// Threads of a block, each for eight numbers.
const THREADS: u32 = 128;

/// Writes gelu(gate) · up into `out`, rows of `width`, where a row of `gate_up` is the gates and then the ups.
///
/// # Errors
/// The sizes do not fit, or the launch failed.
pub fn geglu<T: Narrow>(
    device: &impl Launch,
    gate_up: View<'_, f32>,
    width: usize,
    out: &mut ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let kernel = T::GEGLU;
    require(width > 0 && width.is_multiple_of(8), kernel, "rows are not whole groups of 8")?;
    require(out.len().is_multiple_of(width), kernel, "the result is not whole rows")?;
    require(gate_up.len() == 2 * out.len(), kernel, "there are not as many gates and ups as results")?;
    let (rows, width) = (count(kernel, out.len() / width)?, count(kernel, width)?);
    if rows == 0 {
        return Ok(());
    }
    let shape = Shape { grid: [width.div_ceil(8 * THREADS), rows, 1], threads: THREADS, shared_bytes: 0 };
    // SAFETY: the views are of so many rows, as was checked.
    #[allow(unsafe_code)]
    unsafe {
        device.launch(kernel, shape, &[gate_up.arg(), out.arg(), width.into()])
    }
}
