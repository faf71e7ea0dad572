//! Gemma's forward pass as launches: a prefill of several texts, or a step of a batch that writes its own next input.
//!
//! A step reads and writes nothing but device memory at fixed places, so it can be recorded once for each size of batch
//! and replayed. Must not touch: files, who owns which page.

use super::attention::{Partial, PrefillOutput, Texts, attend_decode, attend_prefill};
use super::geglu::geglu;
use super::kv::{HEAD, KvElement, KvLayout, Layer, Places};
use super::launch::DeviceError;
use super::matrix::Matrix;
use super::memory::{Buffer, Device, View};
use super::norm::add_rms_norm;
use super::rope::rope;
use super::sample::{CHOICE_WORDS, Chooser, Feedback, choose, feed_back};

/// The weights of a layer. What is multiplied with the same activations is one matrix.
pub struct LayerWeights<D: Device> {
    /// By how much the scale of the first norm is more than 1.
    pub input_norm: Buffer<D, f32>,
    /// Queries, keys and values, in this order.
    pub queries_keys_values: Matrix<D>,
    /// What becomes of the heads' results.
    pub output: Matrix<D>,
    /// By how much the scale of the second norm is more than 1.
    pub feed_forward_norm: Buffer<D, f32>,
    /// Gates and then ups.
    pub gate_up: Matrix<D>,
    /// The feed-forward's second step.
    pub down: Matrix<D>,
}

/// A model on a device.
pub struct Network<D: Device> {
    /// Its heads and layers.
    pub layout: KvLayout,
    /// What keeps norms from dividing by zero.
    pub epsilon: f32,
    /// A row for each token: what it means at the bottom, and what it is scored by at the top.
    pub embedding: Matrix<D>,
    /// As many as the layout says.
    pub layers: Vec<LayerWeights<D>>,
    /// By how much the scale of the last norm is more than 1.
    pub norm: Buffer<D, f32>,
    /// See [`super::angles`].
    pub angles: Buffer<D, f32>,
}

/// Activations of so many rows, and their logits.
pub struct Activations<D: Device> {
    rows: usize,
    stream: Buffer<D, f32>,
    normed: Buffer<D, f32>,
    queries_keys_values: Buffer<D, f32>,
    seen: Buffer<D, f32>,
    gate_up: Buffer<D, f32>,
    inner: Buffer<D, f32>,
    delta: Buffer<D, f32>,
    partial_sums: Buffer<D, f32>,
    partial_weights: Buffer<D, f32>,
    logits: Buffer<D, f32>,
}

impl<D: Device> Activations<D> {
    /// Room for `rows` rows, of which `scored` get logits.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(device: &D, network: &Network<D>, rows: usize, scored: usize) -> Result<Self, DeviceError> {
        let (layout, width) = (network.layout, network.embedding.columns());
        let inner = network.layers.first().map_or(0, |layer| layer.down.columns());
        let room = |numbers: usize| Buffer::new(device, numbers);
        let [sums, weights] = Partial::numbers(layout, rows);
        Ok(Self {
            rows,
            stream: room(rows * width)?,
            normed: room(rows * width)?,
            queries_keys_values: room(rows * layout.row_numbers())?,
            seen: room(rows * layout.heads * HEAD)?,
            gate_up: room(rows * 2 * inner)?,
            inner: room(rows * inner)?,
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

/// The input of a forward pass.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// For each row its token.
    pub ids: View<'a, u32>,
    /// For each row its place.
    pub places: Places<'a>,
    /// Which rows are whose; none if each row is a text's next token.
    pub texts: Option<Texts<'a>>,
}

/// What a batch keeps on the device between its steps.
pub struct Batch<D: Device> {
    /// For each row the token that comes next into the model.
    pub ids: Buffer<D, u32>,
    /// For each row that token's position; -1 for a row that is not in use.
    pub positions: Buffer<D, i32>,
    /// For each row the slot of its text.
    pub slots: Buffer<D, i32>,
    /// For each slot the pages of its text.
    pub tables: Buffer<D, i32>,
    /// How many pages a text can have.
    pub table_width: usize,
    /// For each row how it chooses: the words of a `Choice`.
    pub choices: Buffer<D, u32>,
    /// What was chosen in the last steps, a row for each step, in a ring.
    pub history: Buffer<D, u32>,
    /// How many steps there were.
    pub step: Buffer<D, u32>,
    chosen: Buffer<D, u32>,
    partial: Buffer<D, u64>,
}

impl<D: Device> Batch<D> {
    /// A batch of `rows` that are not in use, each with a slot of its own, and a ring of `steps`.
    ///
    /// # Errors
    /// The device has too little memory, or a copy failed.
    pub fn new(device: &D, rows: usize, table_width: usize, steps: usize) -> Result<Self, DeviceError> {
        let slots: Vec<i32> = (0..).take(rows).collect();
        Ok(Self {
            ids: Buffer::copied(device, &vec![0; rows])?,
            positions: Buffer::copied(device, &vec![-1; rows])?,
            slots: Buffer::copied(device, &slots)?,
            tables: Buffer::copied(device, &vec![-1; rows * table_width])?,
            table_width,
            choices: Buffer::copied(device, &vec![0; rows * CHOICE_WORDS])?,
            history: Buffer::new(device, rows * steps)?,
            step: Buffer::copied(device, &[0])?,
            chosen: Buffer::new(device, rows)?,
            partial: Buffer::new(device, Chooser::partial_numbers(rows))?,
        })
    }
}

impl<D: Device> Network<D> {
    /// Runs the model over `input`, writes its keys and values into the pool, and scores the rows `scored`.
    ///
    /// # Errors
    /// The sizes do not fit, or a launch failed.
    pub fn forward<T: KvElement>(
        &self,
        device: &D,
        input: &Input<'_>,
        scored: &[usize],
        pool: &mut Buffer<D, T>,
        rows: &mut Activations<D>,
    ) -> Result<(), DeviceError>
    where
        f32: PrefillOutput<T>,
    {
        let width = self.embedding.columns();
        let factor = (width as f32).sqrt();
        let (ids, positions) = (input.ids, input.places.positions);
        self.embedding.embed(device, ids, positions, factor, &mut rows.stream.view_mut())?;
        for (number, weights) in self.layers.iter().enumerate() {
            let layer = Layer { layout: self.layout, number, places: input.places };
            self.norm(device, &weights.input_norm, number > 0, rows)?;
            let (normed, projected) = (rows.normed.view(), &mut rows.queries_keys_values.view_mut());
            weights.queries_keys_values.multiply(device, normed, projected)?;
            rope(device, &layer, self.angles.view(), projected, &mut pool.view_mut())?;
            self.attend(device, &layer, input.texts.as_ref(), pool.view(), rows)?;
            weights.output.multiply(device, rows.seen.view(), &mut rows.delta.view_mut())?;
            self.norm(device, &weights.feed_forward_norm, true, rows)?;
            weights.gate_up.multiply(device, rows.normed.view(), &mut rows.gate_up.view_mut())?;
            geglu(device, rows.gate_up.view(), weights.down.columns(), &mut rows.inner.view_mut())?;
            weights.down.multiply(device, rows.inner.view(), &mut rows.delta.view_mut())?;
        }
        self.norm(device, &self.norm, !self.layers.is_empty(), rows)?;
        self.score(device, scored, rows)
    }

    /// Runs a step of `batch`: what each row chooses is its input in the next.
    ///
    /// # Errors
    /// The sizes do not fit, or a launch failed.
    pub fn step<T: KvElement>(
        &self,
        device: &D,
        batch: &mut Batch<D>,
        pool: &mut Buffer<D, T>,
        rows: &mut Activations<D>,
    ) -> Result<(), DeviceError>
    where
        f32: PrefillOutput<T>,
    {
        let places = Places {
            slots: batch.slots.view(),
            positions: batch.positions.view(),
            tables: batch.tables.view(),
            table_width: batch.table_width,
        };
        let input = Input { ids: batch.ids.view(), places, texts: None };
        let all: Vec<usize> = (0..rows.rows).collect();
        self.forward(device, &input, &all, pool, rows)?;
        let mut chooser = Chooser { choices: batch.choices.view(), partial: batch.partial.view_mut() };
        let positions = batch.positions.view();
        choose(device, rows.logits.view(), positions, &mut chooser, &mut batch.chosen.view_mut())?;
        let mut feedback = Feedback {
            ids: batch.ids.view_mut(),
            positions: batch.positions.view_mut(),
            history: batch.history.view_mut(),
            step: batch.step.view_mut(),
        };
        feed_back(device, batch.chosen.view(), &mut feedback)
    }

    /// Adds what the last product made to the stream, if there was one, and norms it.
    fn norm(
        &self,
        device: &D,
        scale: &Buffer<D, f32>,
        add: bool,
        rows: &mut Activations<D>,
    ) -> Result<(), DeviceError> {
        let delta = add.then(|| rows.delta.view());
        let (stream, normed) = (&mut rows.stream.view_mut(), &mut rows.normed.view_mut());
        add_rms_norm(device, stream, delta, scale.view(), self.epsilon, normed)
    }

    fn attend<T: KvElement>(
        &self,
        device: &D,
        layer: &Layer<'_>,
        texts: Option<&Texts<'_>>,
        pool: View<'_, T>,
        rows: &mut Activations<D>,
    ) -> Result<(), DeviceError>
    where
        f32: PrefillOutput<T>,
    {
        let (queries, seen) = (rows.queries_keys_values.view(), &mut rows.seen.view_mut());
        let mut partial =
            Partial { sums: rows.partial_sums.view_mut(), weights: rows.partial_weights.view_mut() };
        match texts {
            Some(texts) => attend_prefill(device, layer, texts, queries, pool, seen),
            None => attend_decode(device, layer, queries, pool, &mut partial, seen),
        }
    }

    /// Rows that follow each other are scored together: the embedding is the largest matrix.
    fn score(&self, device: &D, scored: &[usize], rows: &mut Activations<D>) -> Result<(), DeviceError> {
        let (width, vocabulary) = (self.embedding.columns(), self.embedding.rows());
        let mut done = 0;
        for run in scored.chunk_by(|a, b| a + 1 == *b) {
            let Some(&first) = run.first() else { continue };
            let normed = rows.normed.view().part(first * width..(first + run.len()) * width)?;
            let logits = done * vocabulary..(done + run.len()) * vocabulary;
            let mut logits = rows.logits.view_mut().part(logits)?;
            self.embedding.multiply(device, normed, &mut logits)?;
            done += run.len();
        }
        Ok(())
    }
}
