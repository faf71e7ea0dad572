//! Gemma's forward pass as launches, over rows that are read from prompts and rows that follow what was generated.
//!
//! Attention takes two ways, which round differently: many tokens of a prompt at once, on tensor cores, or one token after
//! a text. Which one depends on whether a token is of the prompt, and on nothing else, so that a token is the same however
//! a text is cut into steps. Must not touch: files, who owns which page.

use super::attention::{Partial, Texts, attend_decode, attend_prefill};
use super::kv::{HEAD, KvLayout, Layer, Places};
use super::launch::DeviceError;
use super::matrix::Matrix;
use super::memory::{Buffer, Device, Element as _, View};
use super::narrow::Narrow;
use super::norm::add_rms_norm;
use super::rope::rope;

/// The weights of a layer. What is multiplied with the same activations is one matrix.
pub struct LayerWeights<D: Device, T> {
    /// By how much the scale of the first norm is more than 1.
    pub input_norm: Buffer<D, f32>,
    /// Queries, keys and values, in this order.
    pub queries_keys_values: Matrix<D, T>,
    /// What becomes of the heads' results.
    pub output: Matrix<D, T>,
    /// By how much the scale of the second norm is more than 1.
    pub feed_forward_norm: Buffer<D, f32>,
    /// Gates and then ups.
    pub gate_up: Matrix<D, T>,
    /// The feed-forward's second step.
    pub down: Matrix<D, T>,
}

/// A model on a device.
pub struct Network<D: Device, T> {
    /// Its heads and layers.
    pub layout: KvLayout,
    /// What keeps norms from dividing by zero.
    pub epsilon: f32,
    /// A row for each token: what it means at the bottom, and what it is scored by at the top.
    pub embedding: Matrix<D, T>,
    /// As many as the layout says.
    pub layers: Vec<LayerWeights<D, T>>,
    /// By how much the scale of the last norm is more than 1.
    pub norm: Buffer<D, f32>,
    /// See [`super::angles`].
    pub angles: Buffer<D, f32>,
}

/// How many rows there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All of them.
    pub rows: usize,
    /// Those that are attended to by themselves at the same time; if there are more, one lot goes after the other.
    pub decoded: usize,
    /// Those that get logits.
    pub scored: usize,
}

/// Activations of rows, and their logits.
pub struct Activations<D: Device, T> {
    decoded: usize,
    stream: Buffer<D, f32>,
    normed: Buffer<D, T>,
    queries_keys_values: Buffer<D, f32>,
    seen: Buffer<D, T>,
    inner: Buffer<D, T>,
    delta: Buffer<D, f32>,
    partial_sums: Buffer<D, f32>,
    partial_weights: Buffer<D, f32>,
    logits: Buffer<D, f32>,
}

impl<D: Device, T: Narrow> Activations<D, T> {
    /// Room for so many rows.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(device: &D, network: &Network<D, T>, room: Room) -> Result<Self, DeviceError> {
        let Room { rows, decoded, scored } = room;
        let (layout, width) = (network.layout, network.embedding.columns());
        let inner = network.layers.first().map_or(0, |layer| layer.down.columns());
        let room = |numbers: usize| Buffer::new(device, numbers);
        let narrow = |numbers: usize| Buffer::new(device, numbers);
        let [sums, weights] = Partial::numbers(layout, decoded);
        Ok(Self {
            decoded,
            stream: room(rows * width)?,
            normed: narrow(rows * width)?,
            queries_keys_values: room(rows * layout.row_numbers())?,
            seen: narrow(rows * layout.heads * HEAD)?,
            inner: narrow(rows * inner)?,
            delta: room(rows * width)?,
            partial_sums: room(sums)?,
            partial_weights: room(weights)?,
            logits: room(scored * network.embedding.rows())?,
        })
    }

    /// The logits of the rows that were scored, one after the other.
    pub fn logits(&self) -> &Buffer<D, f32> {
        &self.logits
    }
}

impl<D: Device, T: Narrow> Network<D, T> {
    /// About how many bytes a [`super::Runner`] takes beside pages and weights.
    pub fn step_bytes(&self, room: super::RunnerRoom) -> usize {
        let (layout, width) = (self.layout, self.embedding.columns());
        let inner = self.layers.first().map_or(0, |layer| layer.down.columns());
        let wide = 2 * width + layout.row_numbers();
        let row = f32::BYTES * wide + T::BYTES * (width + layout.heads * HEAD + inner);
        let batch = super::runner::largest_batch(room.batch);
        let (scored, splits) = (room.scored.max(batch), Partial::numbers(layout, batch));
        let splits: usize = splits.iter().sum();
        room.rows.max(scored) * row + f32::BYTES * (splits + scored * self.embedding.rows())
    }
}

/// The input of a forward pass.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// For each row its token.
    pub ids: View<'a, u32>,
    /// For each row its place.
    pub places: Places<'a>,
    /// Which of the first rows are of whose prompt, if any are.
    pub texts: Option<Texts<'a>>,
    /// How many rows those are. Each of the others is attended to by itself.
    pub read: usize,
    /// The rows that get logits, one after the other; all of them if there is no list.
    pub scored: Option<View<'a, i32>>,
}

impl<D: Device, T: Narrow> Network<D, T> {
    /// Runs the model over `input`, writes its keys and values into the pool, and scores the rows that are to be.
    ///
    /// # Errors
    /// The sizes do not fit, or a launch failed.
    pub fn forward(
        &self,
        device: &D,
        input: &Input<'_>,
        pool: &mut Buffer<D, T>,
        rows: &mut Activations<D, T>,
    ) -> Result<(), DeviceError> {
        let (count, width) = (input.ids.len(), self.embedding.columns());
        let inner = self.layers.first().map_or(0, |layer| layer.down.columns());
        let factor = (width as f32).sqrt();
        let (ids, positions) = (input.ids, input.places.positions);
        let wide = 0..count * width;
        let projected = 0..count * self.layout.row_numbers();
        let queries = 0..count * self.layout.heads * HEAD;
        self.embedding.embed(
            device,
            ids,
            positions,
            factor,
            &mut rows.stream.view_mut().part(wide.clone())?,
        )?;
        for (number, weights) in self.layers.iter().enumerate() {
            let layer = Layer { layout: self.layout, number, places: input.places };
            self.norm(device, &weights.input_norm, (number > 0, None), count, rows)?;
            let normed = rows.normed.view().part(wide.clone())?;
            let mut made = rows.queries_keys_values.view_mut().part(projected.clone())?;
            weights.queries_keys_values.multiply(device, input.read, normed, &mut made)?;
            rope(device, &layer, self.angles.view(), &mut made, &mut pool.view_mut())?;
            self.attend(device, &layer, input, pool.view(), rows)?;
            let seen = rows.seen.view().part(queries.clone())?;
            let mut delta = rows.delta.view_mut().part(wide.clone())?;
            weights.output.multiply(device, input.read, seen, &mut delta)?;
            self.norm(device, &weights.feed_forward_norm, (true, None), count, rows)?;
            let normed = rows.normed.view().part(wide.clone())?;
            let mut activated = rows.inner.view_mut().part(0..count * inner)?;
            weights.gate_up.multiply_geglu(device, input.read, normed, &mut activated)?;
            let activated = rows.inner.view().part(0..count * inner)?;
            let mut delta = rows.delta.view_mut().part(wide.clone())?;
            weights.down.multiply(device, input.read, activated, &mut delta)?;
        }
        // Only what is scored goes on: the embedding is the largest matrix.
        let scored = input.scored.map_or(count, View::len);
        self.norm(device, &self.norm, (!self.layers.is_empty(), input.scored), count, rows)?;
        let normed = rows.normed.view().part(0..scored * width)?;
        let mut logits = rows.logits.view_mut().part(0..scored * self.embedding.rows())?;
        self.embedding.multiply(device, 0, normed, &mut logits)
    }

    /// Adds what the last product made to the stream, if there was one, and norms all rows, or those that are named.
    fn norm(
        &self,
        device: &D,
        scale: &Buffer<D, f32>,
        (add, which): (bool, Option<View<'_, i32>>),
        count: usize,
        rows: &mut Activations<D, T>,
    ) -> Result<(), DeviceError> {
        let all = 0..count * scale.len();
        let results = 0..which.map_or(count, View::len) * scale.len();
        let delta = add.then(|| rows.delta.view().part(all.clone())).transpose()?;
        let mut stream = rows.stream.view_mut().part(all)?;
        let mut normed = rows.normed.view_mut().part(results)?;
        add_rms_norm(device, &mut stream, delta, scale.view(), which, self.epsilon, &mut normed)
    }

    fn attend(
        &self,
        device: &D,
        layer: &Layer<'_>,
        input: &Input<'_>,
        pool: View<'_, T>,
        rows: &mut Activations<D, T>,
    ) -> Result<(), DeviceError> {
        let (row, head) = (self.layout.row_numbers(), self.layout.heads * HEAD);
        let queries = rows.queries_keys_values.view();
        let mut seen = rows.seen.view_mut();
        if let Some(texts) = &input.texts {
            let part = 0..input.read;
            let layer = Layer { places: layer.places.part(part.clone())?, ..*layer };
            let queries = queries.part(0..part.end * row)?;
            attend_prefill(
                device,
                &layer,
                texts,
                queries,
                pool,
                &mut seen.again().part(0..part.end * head)?,
            )?;
        }
        let mut partial =
            Partial { sums: rows.partial_sums.view_mut(), weights: rows.partial_weights.view_mut() };
        for first in (input.read..input.ids.len()).step_by(rows.decoded.max(1)) {
            let last = input.ids.len().min(first + rows.decoded);
            let layer = Layer { places: layer.places.part(first..last)?, ..*layer };
            let queries = queries.part(first * row..last * row)?;
            let mut seen = seen.again().part(first * head..last * head)?;
            attend_decode(device, &layer, queries, pool, &mut partial, &mut seen)?;
        }
        Ok(())
    }
}
