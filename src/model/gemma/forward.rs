//! Gemma's forward pass on CPUs, over a ragged batch. Activations are f32.
//!
//! A row is a token. Rows of all sequences go through the matrices together; the result of a sequence is bitwise the same in
//! any batch. Only tokens after which something is sampled get logits.

use codeseal_kernels::cpu::{
    Angles, Format, Heads, KvPool, KvShape, KvType, Level, Matrix, Place, add_assign, attention, geglu,
    matmul, rms_norm, rotate,
};

use super::super::error::ModelError;
use super::super::priority;
use super::super::quantize::Quantize;
use super::batch::Slice;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::weights::{LayerWeights, Weights};

/// A model in memory: its configuration and weights.
pub(super) struct Network {
    pub(super) config: Config,
    pub(super) weights: Weights<Matrix, Vec<f32>>,
    level: Level,
    /// The angle per position of each pair of a head (rotary embedding).
    frequencies: Vec<f32>,
}

/// Memory for the activations of a step, reused by the next one; one row per token.
#[derive(Default)]
pub(crate) struct Workspace {
    /// The residual stream.
    stream: Vec<f32>,
    normed: Vec<f32>,
    queries_keys_values: Vec<f32>,
    /// The result of the attention.
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
    /// What is added to the residual stream next.
    delta: Vec<f32>,
    logits: Vec<f32>,
}

impl Workspace {
    /// Takes the memory of a step of `rows` tokens with `num_logits` logits, and writes to it: what is only promised may be
    /// missing when a request needs it.
    pub(crate) fn reserve(&mut self, config: &Config, rows: usize, num_logits: usize) {
        let (hidden, inner, queries) = (config.hidden_size, config.intermediate_size, config.query_width());
        let take = |numbers: &mut Vec<f32>, count: usize| {
            numbers.clear();
            numbers.resize(count, 0.0);
        };
        take(&mut self.stream, rows * hidden);
        take(&mut self.normed, rows * hidden);
        take(&mut self.queries_keys_values, rows * (queries + 2 * config.kv_width()));
        take(&mut self.attended, rows * queries);
        take(&mut self.gate_up, rows * 2 * inner);
        take(&mut self.inner, rows * inner);
        take(&mut self.delta, rows * hidden);
        take(&mut self.logits, num_logits * config.vocab_size);
    }

    /// Those of the last step.
    #[cfg(test)]
    pub(crate) fn logits(&self) -> &[f32] {
        &self.logits
    }
}

/// The shape of the keys and values of a model whose matrices have `formats`. They are f32 where all matrices are, so that nothing
/// of such a model is rounded, and f16 elsewhere.
pub(super) fn kv_shape(config: &Config, mut formats: impl Iterator<Item = Format>) -> KvShape {
    let kv_type = if formats.all(|format| format == Format::F32) { KvType::F32 } else { KvType::F16 };
    KvShape { layers: config.num_layers, heads: config.num_kv_heads, head_dim: config.head_dim, kv_type }
}

impl Network {
    /// Loads the model of `checkpoint`. `progress` gets the bytes read and all bytes.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn load(
        checkpoint: &mut Checkpoint,
        quantize: Quantize,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let allocate = |format, rows, columns| Ok::<_, ModelError>(Matrix::zeros(format, rows, columns));
        let pool = rayon::ThreadPoolBuilder::new()
            .thread_name(|index| format!("pack {index}"))
            .start_handler(|_| priority::lower())
            .build()?;
        let mut weights =
            Weights::load(checkpoint, quantize, allocate, progress, |matrix, first, source, bytes| {
                pool.install(|| matrix.fill_rows(first, source, bytes));
                Ok(())
            })?;
        if !checkpoint.norms_include_one() {
            weights.norms_mut().flatten().for_each(|scale| *scale += 1.0);
        }
        Ok(Self::new(checkpoint.config().clone(), weights))
    }

    fn new(config: Config, weights: Weights<Matrix, Vec<f32>>) -> Self {
        let base = config.rope_theta as f32;
        let frequencies = (0..config.head_dim / 2)
            .map(|pair| base.powf(2.0 * pair as f32 / config.head_dim as f32).recip())
            .collect();
        Self { config, weights, level: Level::best(), frequencies }
    }

    /// The shape of its keys and values.
    pub(super) fn kv_shape(&self) -> KvShape {
        kv_shape(&self.config, self.weights.matrices().map(Matrix::format))
    }

    /// Takes a step: appends the keys and values of `batch` to `pool`, and returns `[rows, vocabulary]` logits, where the
    /// rows are those that the slices ask for, slice by slice.
    ///
    /// # Errors
    /// A slice has no tokens, or one outside the vocabulary; or it does not fit into its blocks or the context.
    pub(super) fn step<'w>(
        &self,
        pool: &mut KvPool,
        batch: &[Slice<'_>],
        workspace: &'w mut Workspace,
    ) -> Result<&'w [f32], ModelError> {
        self.config.check_batch(batch)?;
        // One entry into the thread pool, unless this is one of its threads: every entry wakes the workers.
        rayon::scope(|_| self.forward(pool, batch, workspace));
        Ok(&workspace.logits)
    }

    fn forward(&self, pool: &mut KvPool, batch: &[Slice<'_>], rows: &mut Workspace) {
        let mut places: Vec<_> = batch.iter().flat_map(Slice::places).collect();
        let angles = Angles::new(&self.frequencies, places.iter().map(|place| place.position));
        self.embed(batch, rows);
        for (number, layer) in self.weights.layers.iter().enumerate() {
            self.project(pool, number, layer, &places, &angles, rows);
            if number + 1 == self.weights.layers.len() {
                // Nothing reads the other rows of the last layer.
                let kept = logit_rows(batch);
                self.keep(rows, &kept);
                places = kept.iter().map(|&row| places[row]).collect();
            }
            if places.is_empty() {
                break;
            }
            self.attend(pool, number, layer, &places, rows);
            self.feed_forward(layer, rows);
        }
        rows.normed.resize(rows.stream.len(), 0.0);
        self.norm(&rows.stream, &self.weights.norm, &mut rows.normed);
        rows.logits.resize(places.len() * self.config.vocab_size, 0.0);
        if !places.is_empty() {
            matmul(self.level, &self.weights.embedding, &rows.normed, &mut rows.logits);
        }
    }

    /// Looks up the embeddings.
    fn embed(&self, batch: &[Slice<'_>], rows: &mut Workspace) {
        let hidden = self.config.hidden_size;
        let tokens = batch.iter().flat_map(|slice| slice.tokens);
        rows.stream.resize(tokens.clone().count() * hidden, 0.0);
        let factor = (hidden as f32).sqrt();
        for (token, row) in tokens.zip(rows.stream.chunks_exact_mut(hidden)) {
            self.weights.embedding.read_row(token.0 as usize, factor, row);
        }
    }

    /// Projects queries, keys and values, and writes the latter two to the KV cache.
    fn project(
        &self,
        pool: &mut KvPool,
        number: usize,
        layer: &LayerWeights<Matrix, Vec<f32>>,
        places: &[Place<'_>],
        angles: &Angles,
        rows: &mut Workspace,
    ) {
        let (queries, keys) = (self.config.query_width(), self.config.kv_width());
        let width = queries + 2 * keys;
        rows.normed.resize(rows.stream.len(), 0.0);
        rows.queries_keys_values.resize(places.len() * width, 0.0);
        self.norm(&rows.stream, &layer.input_norm, &mut rows.normed);
        matmul(self.level, &layer.queries_keys_values, &rows.normed, &mut rows.queries_keys_values);
        add_bias(&mut rows.queries_keys_values, layer.queries_keys_values_bias.as_deref());
        rotate(angles, &mut rows.queries_keys_values, width, queries + keys);
        for (place, row) in places.iter().zip(rows.queries_keys_values.chunks_exact(width)) {
            let (_, keys_values) = row.split_at(queries);
            let (key, value) = keys_values.split_at(keys);
            pool.write(number, place.table, place.position, key, value);
        }
    }

    fn attend(
        &self,
        pool: &KvPool,
        number: usize,
        layer: &LayerWeights<Matrix, Vec<f32>>,
        places: &[Place<'_>],
        rows: &mut Workspace,
    ) {
        let queries = self.config.query_width();
        let heads = Heads {
            count: self.config.num_heads,
            queries: &rows.queries_keys_values,
            stride: queries + 2 * self.config.kv_width(),
        };
        rows.attended.resize(places.len() * queries, 0.0);
        rows.delta.resize(rows.stream.len(), 0.0);
        attention(self.level, pool, number, heads, places, &mut rows.attended);
        matmul(self.level, &layer.output, &rows.attended, &mut rows.delta);
        add_bias(&mut rows.delta, layer.output_bias.as_deref());
        add_assign(&mut rows.stream, &rows.delta);
    }

    fn feed_forward(&self, layer: &LayerWeights<Matrix, Vec<f32>>, rows: &mut Workspace) {
        let inner = self.config.intermediate_size;
        let count = rows.stream.len() / self.config.hidden_size;
        rows.normed.resize(rows.stream.len(), 0.0);
        rows.gate_up.resize(count * 2 * inner, 0.0);
        rows.inner.resize(count * inner, 0.0);
        self.norm(&rows.stream, &layer.feed_forward_norm, &mut rows.normed);
        matmul(self.level, &layer.gate_up, &rows.normed, &mut rows.gate_up);
        geglu(self.level, &rows.gate_up, inner, &mut rows.inner);
        matmul(self.level, &layer.down, &rows.inner, &mut rows.delta);
        add_assign(&mut rows.stream, &rows.delta);
    }

    fn norm(&self, x: &[f32], scale: &[f32], out: &mut [f32]) {
        rms_norm(self.level, x, scale, self.config.rms_norm_eps as f32, out);
    }

    /// Drops all rows but `kept`, which are in order.
    fn keep(&self, rows: &mut Workspace, kept: &[usize]) {
        let width = self.config.query_width() + 2 * self.config.kv_width();
        for (rows, width) in
            [(&mut rows.stream, self.config.hidden_size), (&mut rows.queries_keys_values, width)]
        {
            for (to, &from) in kept.iter().enumerate() {
                rows.copy_within(from * width..(from + 1) * width, to * width);
            }
            rows.truncate(kept.len() * width);
        }
    }
}

impl<'a> Slice<'a> {
    /// The position of each token.
    fn places(&self) -> impl Iterator<Item = Place<'a>> {
        let table = self.blocks;
        (self.position..self.position + self.tokens.len()).map(move |position| Place { table, position })
    }
}

/// The rows that get logits.
fn logit_rows(batch: &[Slice<'_>]) -> Vec<usize> {
    let mut end = 0;
    let mut rows = Vec::new();
    for slice in batch {
        end += slice.tokens.len();
        rows.extend(end - slice.num_logits.min(slice.tokens.len())..end);
    }
    rows
}

fn add_bias(x: &mut [f32], bias: Option<&[f32]>) {
    if let Some(bias) = bias {
        x.chunks_exact_mut(bias.len()).for_each(|row| add_assign(row, bias));
    }
}
