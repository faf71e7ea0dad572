//! Launches the residual addition and norm: `norm.cu`.
//!
//! Must not touch: what the rows mean.

use super::launch::{Arg, DeviceError, Launch, Shape, count, require};
use super::memory::{View, ViewMut};
use super::narrow::Narrow;

/// Adds `delta`, if there is one, to `stream`, and writes each row of the sum, divided by its root mean square and
/// multiplied by 1 + `scale`, into `out`.
///
/// # Errors
/// The sizes do not fit, or the launch failed.
pub fn add_rms_norm<T: Narrow>(
    device: &impl Launch,
    stream: &mut ViewMut<'_, f32>,
    delta: Option<View<'_, f32>>,
    scale: View<'_, f32>,
    epsilon: f32,
    out: &mut ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let kernel = T::ADD_RMS_NORM;
    let width = scale.len();
    require(width > 0 && width.is_multiple_of(8), kernel, "rows are not whole groups of 8")?;
    require(stream.len().is_multiple_of(width), kernel, "the stream is not whole rows")?;
    require(out.len() == stream.len(), kernel, "the result is not as large as the stream")?;
    require(delta.is_none_or(|delta| delta.len() == stream.len()), kernel, "the summands differ in size")?;
    let rows = count(kernel, stream.len() / width)?;
    if rows == 0 {
        return Ok(());
    }
    let width = count(kernel, width)?;
    let shape =
        Shape { grid: [rows, 1, 1], threads: (width / 8).next_multiple_of(32).min(1024), shared_bytes: 0 };
    let delta = delta.map_or(Arg::address(0), View::arg);
    let args = [stream.arg(), delta, scale.arg(), out.arg(), width.into(), epsilon.into()];
    // SAFETY: the views are of whole rows, as was checked, and a row is read and written by its block alone.
    #[allow(unsafe_code)]
    unsafe {
        device.launch(kernel, shape, &args)
    }
}
