//! Launches the rotation of queries and keys, which also puts keys and values into pages: `rope.cu`.

use super::kv::{HEAD, Layer};
use super::launch::{DeviceError, Launch, Shape, count, require};
use super::memory::{View, ViewMut};
use super::narrow::Narrow;

/// Turns the queries of each of `rows` where they are, and writes its keys, turned, and values into the pool. `angles`
/// has the cosines and then the sines of a head's pairs for each position, as [`angles`] makes them.
///
/// # Errors
/// The sizes do not fit, or the launch failed.
pub fn rope<T: Narrow>(
    device: &impl Launch,
    layer: &Layer<'_>,
    angles: View<'_, f32>,
    rows: &mut ViewMut<'_, f32>,
    pool: &mut ViewMut<'_, T>,
) -> Result<(), DeviceError> {
    let kernel = T::ROPE;
    let (layout, paged) = (layer.layout, layer.args(kernel, pool.len())?);
    require(rows.len() == layer.rows() * layout.row_numbers(), kernel, "the rows are of another size")?;
    require(angles.len().is_multiple_of(HEAD), kernel, "the angles are not whole rows")?;
    let grid = [count(kernel, layer.rows())?, count(kernel, layout.heads + 2 * layout.kv_heads)?, 1];
    if grid[0] == 0 {
        return Ok(());
    }
    let mut args = vec![rows.arg(), angles.arg(), pool.arg()];
    args.extend(paged);
    args.push(count(kernel, angles.len() / HEAD)?.into());
    args.push(count(kernel, layout.heads)?.into());
    args.push(count(kernel, layout.kv_heads)?.into());
    let shape = Shape { grid, threads: 128, shared_bytes: 0 };
    // SAFETY: the views are of the sizes that the kernel computes with, as was checked; positions, slots and pages it
    // checks itself. No two rows are at the same place of the same text.
    unsafe { device.launch(kernel, shape, &args) }
}

/// Cosines and sines of the rotary embedding for `positions`, computed as the CPU's forward pass does.
pub fn angles(base: f32, positions: usize) -> Vec<f32> {
    let frequencies: Vec<f32> =
        (0..HEAD / 2).map(|pair| base.powf(2.0 * pair as f32 / HEAD as f32).recip()).collect();
    let mut angles = Vec::with_capacity(positions * HEAD);
    for position in 0..positions {
        let turned = frequencies.iter().map(|frequency| position as f32 * frequency);
        angles.extend(turned.clone().map(f32::cos));
        angles.extend(turned.map(f32::sin));
    }
    angles
}
