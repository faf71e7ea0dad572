//! Launches the residual addition and norm: `norm.cu`.

use super::launch::{Arg, DeviceError, Launch, Shape, count, require};
use super::memory::{View, ViewMut};
use super::narrow::Narrow;

/// The widest rows, eight numbers for each thread of a block.
pub const MOST_WIDTH: usize = 8 * 1024;

/// Adds `delta`, if there is one, to `stream`, and writes the sums, divided by their root mean square and multiplied by
/// 1 + `scale`, into `out`: those of the rows `which`, of which none occurs twice, or of all.
///
/// # Errors
/// The sizes do not fit, or the launch failed.
pub fn add_rms_norm<T: Narrow>(
    device: &impl Launch,
    stream: &mut ViewMut<'_, f32>,
    delta: Option<View<'_, f32>>,
    scale: View<'_, f32>,
    which: Option<View<'_, i32>>,
    epsilon: f32,
    out: &mut ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let kernel = T::ADD_RMS_NORM;
    let width = scale.len();
    require(width > 0 && width.is_multiple_of(8), kernel, "rows are not whole groups of 8")?;
    require(width <= MOST_WIDTH, kernel, "rows are wider than a block")?;
    require(stream.len().is_multiple_of(width), kernel, "the stream is not whole rows")?;
    require(delta.is_none_or(|delta| delta.len() == stream.len()), kernel, "the summands differ in size")?;
    let rows = stream.len() / width;
    let results = which.map_or(rows, View::len);
    require(out.len() == results * width, kernel, "there is not a row for every result")?;
    let (results, rows, width) = (count(kernel, results)?, count(kernel, rows)?, count(kernel, width)?);
    if results == 0 {
        return Ok(());
    }
    let shape = Shape { grid: [results, 1, 1], threads: (width / 8).next_multiple_of(32), shared_bytes: 0 };
    let none = Arg::address(0);
    let (delta, which) = (delta.map_or(none, View::arg), which.map_or(none, View::arg));
    let args =
        [stream.arg(), delta, scale.arg(), which, out.arg(), rows.into(), width.into(), epsilon.into()];
    // SAFETY: the views are of whole rows, as was checked, and a row is read and written by its block alone. Which rows
    // there are the kernel checks itself.
    unsafe { device.launch(kernel, shape, &args) }
}
