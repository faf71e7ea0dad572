//! Launches sampling, and the kernel that makes the sampled tokens the next step's input: `sample.cu`.
//!
//! The algorithm is explained in `kernels::sampling`.

use super::launch::{DeviceError, Launch, Shape, count, require};
use super::memory::{View, ViewMut};

/// In place of a token: the row's logits were not all finite, or it is not in use.
pub const NO_TOKEN: u32 = u32::MAX;
/// Words of a `kernels::sampling::RowSampler`.
pub const SAMPLER_WORDS: usize = 8;
/// Parts of a row that are searched for the largest logit side by side.
const PARTS: u32 = 256;

/// What sampling needs beside the logits.
pub struct SamplingBuffers<'a> {
    /// The words of each row's `RowSampler`.
    pub samplers: View<'a, u32>,
    /// The largest logit of each part of each row: [`SamplingBuffers::partial_numbers`] of them.
    pub partial: ViewMut<'a, u64>,
}

impl SamplingBuffers<'_> {
    /// The number of partial results of `rows`.
    pub fn partial_numbers(rows: usize) -> usize {
        rows * PARTS as usize
    }
}

/// Samples a token for each row of `logits` that is in use. The counter of the random numbers is the row's position.
///
/// # Errors
/// The sizes do not fit, or a launch failed.
pub fn sample_rows(
    device: &impl Launch,
    logits: View<'_, f32>,
    positions: View<'_, i32>,
    buffers: &mut SamplingBuffers<'_>,
    chosen: &mut ViewMut<'_, u32>,
) -> Result<(), DeviceError> {
    let kernel = "sample";
    let rows = positions.len();
    let vocabulary = logits.len().checked_div(rows).unwrap_or(0);
    require(logits.len() == rows * vocabulary, kernel, "the logits are not whole rows")?;
    require(buffers.samplers.len() == rows * SAMPLER_WORDS, kernel, "there is not a sampler for every row")?;
    require(buffers.partial.len() >= SamplingBuffers::partial_numbers(rows), kernel, "too little for parts")?;
    require(chosen.len() == rows, kernel, "there is not a token for every row")?;
    let (rows, vocabulary) = (count(kernel, rows)?, count(kernel, vocabulary)?);
    if rows == 0 {
        return Ok(());
    }
    require(vocabulary > 0, kernel, "there are no logits")?;
    let args = [logits.arg(), positions.arg(), buffers.partial.arg(), vocabulary.into()];
    let shape = Shape { grid: [PARTS, rows, 1], threads: 32, shared_bytes: 0 };
    // SAFETY: the views are of these sizes, as was checked.
    unsafe {
        device.launch("argmax", shape, &args)?;
    }
    let args = [
        logits.arg(),
        positions.arg(),
        buffers.partial.arg(),
        buffers.samplers.arg(),
        chosen.arg(),
        vocabulary.into(),
        PARTS.into(),
    ];
    let shape = Shape { grid: [rows, 1, 1], threads: 1024, shared_bytes: 0 };
    // SAFETY: as above; what is read was written by the launch before.
    unsafe { device.launch(kernel, shape, &args) }
}

/// What a decode step leaves for the next, all on the device.
pub struct Feedback<'a> {
    /// The next step's tokens.
    pub ids: ViewMut<'a, u32>,
    /// The next step's positions.
    pub positions: ViewMut<'a, i32>,
    /// The sampled tokens of the last steps, `[step][row]`, a ring buffer.
    pub history: ViewMut<'a, u32>,
    /// The number of steps: one number.
    pub step: ViewMut<'a, u32>,
}

/// Makes the sampled tokens the next step's input, one position on, and appends them to the history. A row with [`NO_TOKEN`] is
/// not in use any more.
///
/// # Errors
/// The sizes do not fit, or the launch failed.
pub fn feed_back(
    device: &impl Launch,
    chosen: View<'_, u32>,
    feedback: &mut Feedback<'_>,
) -> Result<(), DeviceError> {
    let kernel = "feed_back";
    let rows = chosen.len();
    require(rows > 0 && rows <= 1024, kernel, "a batch has 1 to 1024 rows")?;
    require(
        feedback.ids.len() == rows && feedback.positions.len() == rows && feedback.step.len() == 1,
        kernel,
        "the next input is of another size",
    )?;
    let steps = feedback.history.len() / rows;
    require(steps > 0 && feedback.history.len() == steps * rows, kernel, "the history is not whole steps")?;
    let (rows, steps) = (count(kernel, rows)?, count(kernel, steps)?);
    let args = [
        chosen.arg(),
        feedback.ids.arg(),
        feedback.positions.arg(),
        feedback.history.arg(),
        feedback.step.arg(),
        rows.into(),
        steps.into(),
    ];
    let shape = Shape { grid: [1, 1, 1], threads: rows.next_multiple_of(32), shared_bytes: 0 };
    // SAFETY: the views are of these sizes, as was checked.
    unsafe { device.launch(kernel, shape, &args) }
}
