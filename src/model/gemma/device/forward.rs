//! Gemma's forward pass on a device, launch by launch, over rows of prompts (prefill) and rows behind them (decode).
//!
//! Attention has two kernels, which round differently: many tokens of a prompt at once, on tensor cores, or one token of a
//! sequence. Which one computes a token depends only on whether it is of the prompt, so the result does not depend on how a
//! sequence is cut into steps.

use codeseal_kernels::cuda::{
    Buffer, Device, DeviceError, Element as _, HEAD, KvLayout, Layer, Matrix, Narrow, Partial, Places,
    Prompts, View, add_rms_norm, attend_decode, attend_prefill, rope,
};

use super::super::weights::Weights;

/// A model on a device.
pub struct Network<D: Device, T> {
    /// Its heads and layers.
    pub layout: KvLayout,
    /// Added to the mean square in norms, against division by zero.
    pub epsilon: f32,
    /// Its parameters. Scales of norms are less by 1, as in safetensors: the kernels add it.
    pub weights: Weights<Matrix<D, T>, Buffer<D, f32>>,
    /// Cosines and sines of the rotary embedding: see [`codeseal_kernels::cuda::angles`].
    pub angles: Buffer<D, f32>,
}

/// The largest step that activations have memory for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Rows.
    pub rows: usize,
    /// Rows per launch of the decode attention; more are computed in several launches.
    pub decode_rows: usize,
    /// Rows that get logits.
    pub logit_rows: usize,
}

/// Activations of rows, and their logits.
pub struct Activations<D: Device, T> {
    decode_rows: usize,
    stream: Buffer<D, f32>,
    normed: Buffer<D, T>,
    queries_keys_values: Buffer<D, f32>,
    attended: Buffer<D, T>,
    inner: Buffer<D, T>,
    delta: Buffer<D, f32>,
    partial_sums: Buffer<D, f32>,
    partial_weights: Buffer<D, f32>,
    logits: Buffer<D, f32>,
}

impl<D: Device, T: Narrow> Activations<D, T> {
    /// Memory for a step of `network` that is as large as `room`.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(device: &D, network: &Network<D, T>, room: Room) -> Result<Self, DeviceError> {
        let Room { rows, decode_rows, logit_rows } = room;
        let (layout, width, inner) = (network.layout, network.width(), network.inner());
        let room = |numbers: usize| Buffer::new(device, numbers);
        let narrow = |numbers: usize| Buffer::new(device, numbers);
        let [sums, weights] = Partial::numbers(layout, decode_rows);
        Ok(Self {
            decode_rows,
            stream: room(rows * width)?,
            normed: narrow(rows * width)?,
            queries_keys_values: room(rows * layout.row_numbers())?,
            attended: narrow(rows * layout.heads * HEAD)?,
            inner: narrow(rows * inner)?,
            delta: room(rows * width)?,
            partial_sums: room(sums)?,
            partial_weights: room(weights)?,
            logits: room(logit_rows * network.vocabulary())?,
        })
    }

    /// The logits of the last step, `[rows, vocabulary]`.
    pub fn logits(&self) -> &Buffer<D, f32> {
        &self.logits
    }

    /// The size of such memory, in bytes.
    pub(super) fn bytes(network: &Network<D, T>, room: Room) -> usize {
        let Room { rows, decode_rows, logit_rows } = room;
        let (layout, width) = (network.layout, network.width());
        let row = f32::BYTES * (2 * width + layout.row_numbers())
            + T::BYTES * (width + layout.heads * HEAD + network.inner());
        let splits: usize = Partial::numbers(layout, decode_rows).iter().sum();
        rows * row + f32::BYTES * (splits + logit_rows * network.vocabulary())
    }
}

/// The input of a forward pass.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The token of each row.
    pub ids: View<'a, u32>,
    /// The position and block table of each row.
    pub places: Places<'a>,
    /// Which of the first rows belong to which prompt, if any do.
    pub prompts: Option<Prompts<'a>>,
    /// How many rows those are. Attention of the others is decode attention.
    pub prompt_rows: usize,
    /// The rows that get logits; all if there is no list.
    pub logit_rows: Option<View<'a, i32>>,
}

impl<D: Device, T: Narrow> Network<D, T> {
    /// The width of the residual stream.
    fn width(&self) -> usize {
        self.weights.embedding.columns()
    }

    /// The width of the feed-forward part.
    fn inner(&self) -> usize {
        self.weights.layers.first().map_or(0, |layer| layer.down.columns())
    }

    /// The number of logits per row.
    pub(super) fn vocabulary(&self) -> usize {
        self.weights.embedding.rows()
    }

    /// Runs the model over `input`: appends its keys and values to `pool`, and leaves logits in `rows`.
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
        let (count, width, inner) = (input.ids.len(), self.width(), self.inner());
        let factor = (width as f32).sqrt();
        let (ids, positions) = (input.ids, input.places.positions);
        let wide = 0..count * width;
        let projected = 0..count * self.layout.row_numbers();
        let queries = 0..count * self.layout.heads * HEAD;
        self.weights.embedding.embed(
            device,
            ids,
            positions,
            factor,
            &mut rows.stream.view_mut().part(wide.clone())?,
        )?;
        for (number, weights) in self.weights.layers.iter().enumerate() {
            let layer = Layer { layout: self.layout, number, places: input.places };
            self.norm(device, &weights.input_norm, (number > 0, None), count, rows)?;
            let normed = rows.normed.view().part(wide.clone())?;
            let mut made = rows.queries_keys_values.view_mut().part(projected.clone())?;
            weights.queries_keys_values.multiply(device, input.prompt_rows, normed, &mut made)?;
            rope(device, &layer, self.angles.view(), &mut made, &mut pool.view_mut())?;
            self.attend(device, &layer, input, pool.view(), rows)?;
            let seen = rows.attended.view().part(queries.clone())?;
            let mut delta = rows.delta.view_mut().part(wide.clone())?;
            weights.output.multiply(device, input.prompt_rows, seen, &mut delta)?;
            self.norm(device, &weights.feed_forward_norm, (true, None), count, rows)?;
            let normed = rows.normed.view().part(wide.clone())?;
            let mut activated = rows.inner.view_mut().part(0..count * inner)?;
            weights.gate_up.multiply_geglu(device, input.prompt_rows, normed, &mut activated)?;
            let activated = rows.inner.view().part(0..count * inner)?;
            let mut delta = rows.delta.view_mut().part(wide.clone())?;
            weights.down.multiply(device, input.prompt_rows, activated, &mut delta)?;
        }
        // Only rows that get logits are multiplied with the embedding, which is the largest matrix.
        let logit_rows = input.logit_rows.map_or(count, View::len);
        let Weights { embedding, layers, norm } = &self.weights;
        self.norm(device, norm, (!layers.is_empty(), input.logit_rows), count, rows)?;
        let normed = rows.normed.view().part(0..logit_rows * width)?;
        let mut logits = rows.logits.view_mut().part(0..logit_rows * self.vocabulary())?;
        embedding.multiply(device, 0, normed, &mut logits)
    }

    /// Adds the last product to the residual stream, if `add`, and norms all rows, or those in `which`.
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
        let mut seen = rows.attended.view_mut();
        if let Some(prompts) = &input.prompts {
            let part = 0..input.prompt_rows;
            let layer = Layer { places: layer.places.part(part.clone())?, ..*layer };
            let queries = queries.part(0..part.end * row)?;
            attend_prefill(
                device,
                &layer,
                prompts,
                queries,
                pool,
                &mut seen.again().part(0..part.end * head)?,
            )?;
        }
        let mut partial =
            Partial { sums: rows.partial_sums.view_mut(), weights: rows.partial_weights.view_mut() };
        for first in (input.prompt_rows..input.ids.len()).step_by(rows.decode_rows.max(1)) {
            let last = input.ids.len().min(first + rows.decode_rows);
            let layer = Layer { places: layer.places.part(first..last)?, ..*layer };
            let queries = queries.part(first * row..last * row)?;
            let mut seen = seen.again().part(first * head..last * head)?;
            attend_decode(device, &layer, queries, pool, &mut partial, &mut seen)?;
        }
        Ok(())
    }
}
