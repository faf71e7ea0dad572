//! Launches attention over KV blocks: of one token of each sequence (`attention_decode.cu`), or of many
//! (`attention_prefill.cu`).

use super::kv::{HEAD, KvLayout, Layer};
use super::launch::{DeviceError, Launch, Shape, count, require};
use super::memory::{Element as _, View, ViewMut};
use super::narrow::Narrow;

/// The number of splits of a sequence in decode attention. A constant: a sequence must be split alike in every batch.
pub const SPLITS: usize = 32;
/// Queries that a block of the prefill works on.
const PREFILL_ROWS: usize = 64;
/// Bytes of shared memory for its queries, and a KV block's keys and values.
const PREFILL_SHARED: u32 = ((64 + 32 + 32) * HEAD * 2) as u32;

/// Partial results of decode attention, one per split.
pub struct Partial<'a> {
    /// Sums of values: \[row\]\[head\]\[split\]\[number\].
    pub sums: ViewMut<'a, f32>,
    /// The largest score and the total weight: \[row\]\[head\]\[split\]\[2\].
    pub weights: ViewMut<'a, f32>,
}

impl Partial<'_> {
    /// The lengths of both for `rows`.
    pub fn numbers(layout: KvLayout, rows: usize) -> [usize; 2] {
        let splits = rows * layout.heads * SPLITS;
        [splits * HEAD, splits * 2]
    }
}

/// Writes the attention of each row's heads over its sequence, itself included, into `out`; zeros for rows that are not in
/// use. `rows` are queries, keys and values as [`super::rope`] leaves them.
///
/// # Errors
/// The sizes do not fit, or a launch failed.
pub fn attend_decode<T: Narrow>(
    device: &impl Launch,
    layer: &Layer<'_>,
    rows: View<'_, f32>,
    pool: View<'_, T>,
    partial: &mut Partial<'_>,
    out: &mut ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let layout = layer.layout;
    let sharing = layout.heads.checked_div(layout.kv_heads).unwrap_or(0);
    let by_sharing = [1, 2, 4, 8].into_iter().zip(T::ATTEND).find(|(number, _)| *number == sharing);
    let [first, ..] = T::ATTEND;
    let Some((_, kernel)) = by_sharing else {
        return Err(DeviceError::Shape { kernel: first, reason: "a key is shared by 1, 2, 4 or 8 heads" });
    };
    let paged = layer.args(kernel, pool.len())?;
    let [sums, weights] = Partial::numbers(layout, layer.rows());
    require(rows.len() == layer.rows() * layout.row_numbers(), kernel, "the rows are of another size")?;
    require(partial.sums.len() >= sums && partial.weights.len() >= weights, kernel, "too little for splits")?;
    require(out.len() == layer.rows() * layout.heads * HEAD, kernel, "the result is of another size")?;
    let (heads, kv_heads) = (count(kernel, layout.heads)?, count(kernel, layout.kv_heads)?);
    let batch = count(kernel, layer.rows())?;
    if batch == 0 {
        return Ok(());
    }
    let mut args = vec![rows.arg(), pool.arg()];
    args.extend(paged);
    args.extend_from_slice(&[partial.sums.arg(), partial.weights.arg(), kv_heads.into(), scale().into()]);
    let numbers = 4 * sharing * (HEAD + 2);
    let shape = Shape {
        grid: [SPLITS as u32, kv_heads, batch],
        threads: 128,
        shared_bytes: count(kernel, numbers * f32::BYTES)?,
    };
    // SAFETY: the views are as large as the kernel computes from these numbers, as was checked; positions, slots and
    // block tables it checks itself.
    unsafe {
        device.launch(kernel, shape, &args)?;
    }
    let args = [
        partial.sums.arg(),
        partial.weights.arg(),
        layer.places.positions.arg(),
        out.arg(),
        (SPLITS as u32).into(),
    ];
    let shape = Shape { grid: [heads, batch, 1], threads: HEAD as u32, shared_bytes: 0 };
    // SAFETY: as above; what is read was written by the launch before.
    unsafe { device.launch(T::COMBINE, shape, &args) }
}

/// Which rows belong to which prompt.
#[derive(Clone, Copy)]
pub struct Prompts<'a> {
    /// The rows of prompt p are those from `starts[p]` to `starts[p + 1]`, at consecutive positions, all in use.
    pub starts: View<'a, i32>,
    /// The rows of the longest prompt.
    pub longest: usize,
}

/// As [`attend_decode`] for many tokens of each sequence. bf16 needs the tensor cores of 8.0 or newer.
///
/// # Errors
/// The sizes do not fit, or the launch failed.
pub fn attend_prefill<T: Narrow>(
    device: &impl Launch,
    layer: &Layer<'_>,
    prompts: &Prompts<'_>,
    rows: View<'_, f32>,
    pool: View<'_, T>,
    out: &mut ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let (kernel, layout) = (T::PREFILL, layer.layout);
    let Prompts { starts, longest } = *prompts;
    let paged = layer.args(kernel, pool.len())?;
    require(rows.len() == layer.rows() * layout.row_numbers(), kernel, "the rows are of another size")?;
    require(out.len() == layer.rows() * layout.heads * HEAD, kernel, "the result is of another size")?;
    let (heads, kv_heads) = (count(kernel, layout.heads)?, count(kernel, layout.kv_heads)?);
    let tiles = (longest * (layout.heads / layout.kv_heads)).div_ceil(PREFILL_ROWS);
    let grid = [count(kernel, tiles)?, kv_heads, count(kernel, starts.len().saturating_sub(1))?];
    if grid.contains(&0) {
        return Ok(());
    }
    let mut args = vec![rows.arg(), pool.arg()];
    args.extend(paged);
    args.extend_from_slice(&[starts.arg(), out.arg(), count(kernel, layer.rows())?.into()]);
    args.extend_from_slice(&[heads.into(), kv_heads.into(), scale().into()]);
    let shape = Shape { grid, threads: 128, shared_bytes: PREFILL_SHARED };
    // SAFETY: the views are as large as the kernel computes from these numbers, as was checked; starts, positions,
    // slots and block tables it checks itself.
    unsafe { device.launch(kernel, shape, &args) }
}

/// What scores are multiplied by.
fn scale() -> f32 {
    (HEAD as f32).sqrt().recip()
}
