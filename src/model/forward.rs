//! Gemma's forward pass over a ragged batch: f32 between the weights, logits only where they are wanted.
//!
//! A row is a token. Rows of all sequences go through the matrices together; what a sequence gets does not depend
//! on who else is in the batch, to the last bit.

use super::ModelError;
use super::config::Config;
use super::parameters::{Layer, Parameters};
use crate::tokenizer::TokenId;
use codeseal_kernels::cpu::{
    Angles, BLOCK_TOKENS, BlockId, Heads, KvPool, KvShape, Level, Place, add_assign, attention, geglu,
    matmul, rms_norm, rotate,
};

/// What a forward pass needs beside keys and values.
pub(super) struct Network {
    pub(super) config: Config,
    pub(super) parameters: Parameters,
    level: Level,
    /// By what angle per position each pair of a head turns.
    frequencies: Vec<f32>,
}

/// What one sequence adds in a step. A sequence may occur once.
#[derive(Clone, Copy)]
pub(crate) struct Slice<'a> {
    pub(crate) tokens: &'a [TokenId],
    /// Where the first of the tokens stands. All before it has been read.
    pub(crate) position: usize,
    /// Where the keys and values of the sequence are, these tokens' included.
    pub(crate) blocks: &'a [BlockId],
    /// After how many of the tokens, counted from the last, the logits are wanted.
    pub(crate) wanted: usize,
    /// How long the sequence's prompt is. What comes after it was generated or guessed.
    pub(crate) prompt: usize,
}

/// Memory for the activations of a step, kept for the next one: rows for tokens.
#[derive(Default)]
pub(crate) struct Workspace {
    /// The residual stream.
    stream: Vec<f32>,
    normed: Vec<f32>,
    queries_keys_values: Vec<f32>,
    seen: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
    /// What is added to the stream next.
    delta: Vec<f32>,
    logits: Vec<f32>,
}

/// What a model of this shape keeps of a token.
pub(super) fn kv_shape(config: &Config) -> KvShape {
    KvShape { layers: config.num_layers, heads: config.num_kv_heads, head_dim: config.head_dim }
}

impl Network {
    pub(super) fn new(config: Config, parameters: Parameters) -> Self {
        let base = config.rope_theta as f32;
        let frequencies = (0..config.head_dim / 2)
            .map(|pair| base.powf(2.0 * pair as f32 / config.head_dim as f32).recip())
            .collect();
        Self { config, parameters, level: Level::best(), frequencies }
    }

    /// What is kept of a token.
    pub(super) fn kv_shape(&self) -> KvShape {
        kv_shape(&self.config)
    }

    /// Reads what `batch` adds to its sequences, keeps their keys and values in `pool`, and returns the wanted
    /// logits: for one slice after the other, for one of its tokens after the other, one for each of the vocabulary.
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
        // As one visit to the worker threads, unless this is one of them: a hundred would each begin with waking them.
        rayon::scope(|_| self.forward(pool, batch, workspace));
        Ok(&workspace.logits)
    }

    fn forward(&self, pool: &mut KvPool, batch: &[Slice<'_>], rows: &mut Workspace) {
        let mut places: Vec<_> = batch.iter().flat_map(Slice::places).collect();
        let angles = Angles::new(&self.frequencies, places.iter().map(|place| place.position));
        self.embed(batch, rows);
        for (number, layer) in self.parameters.layers.iter().enumerate() {
            self.remember(pool, number, layer, &places, &angles, rows);
            if number + 1 == self.parameters.layers.len() {
                // Nothing reads what the last layer makes of the other tokens.
                let wanted = wanted_rows(batch);
                self.keep(rows, &wanted);
                places = wanted.iter().map(|&row| places[row]).collect();
            }
            if places.is_empty() {
                break;
            }
            self.attend(pool, number, layer, &places, rows);
            self.feed_forward(layer, rows);
        }
        rows.normed.resize(rows.stream.len(), 0.0);
        self.norm(&rows.stream, &self.parameters.norm, &mut rows.normed);
        rows.logits.resize(places.len() * self.config.vocab_size, 0.0);
        if !places.is_empty() {
            matmul(self.level, &self.parameters.embedding, &rows.normed, &mut rows.logits);
        }
    }

    /// What each token means by itself.
    fn embed(&self, batch: &[Slice<'_>], rows: &mut Workspace) {
        let hidden = self.config.hidden_size;
        let tokens = batch.iter().flat_map(|slice| slice.tokens);
        rows.stream.resize(tokens.clone().count() * hidden, 0.0);
        let factor = (hidden as f32).sqrt();
        for (token, row) in tokens.zip(rows.stream.chunks_exact_mut(hidden)) {
            self.parameters.embedding.read_row(token.0 as usize, factor, row);
        }
    }

    /// Makes queries, keys and values, and keeps the latter two.
    fn remember(
        &self,
        pool: &mut KvPool,
        number: usize,
        layer: &Layer,
        places: &[Place<'_>],
        angles: &Angles,
        rows: &mut Workspace,
    ) {
        let (queries, keys) = (self.config.queries(), self.config.keys());
        let width = queries + 2 * keys;
        rows.normed.resize(rows.stream.len(), 0.0);
        rows.queries_keys_values.resize(places.len() * width, 0.0);
        self.norm(&rows.stream, &layer.input_norm, &mut rows.normed);
        matmul(self.level, &layer.queries_keys_values, &rows.normed, &mut rows.queries_keys_values);
        add_bias(&mut rows.queries_keys_values, &layer.queries_keys_values_bias);
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
        layer: &Layer,
        places: &[Place<'_>],
        rows: &mut Workspace,
    ) {
        let queries = self.config.queries();
        let heads = Heads {
            count: self.config.num_heads,
            queries: &rows.queries_keys_values,
            stride: queries + 2 * self.config.keys(),
        };
        rows.seen.resize(places.len() * queries, 0.0);
        rows.delta.resize(rows.stream.len(), 0.0);
        attention(self.level, pool, number, heads, places, &mut rows.seen);
        matmul(self.level, &layer.output, &rows.seen, &mut rows.delta);
        add_bias(&mut rows.delta, &layer.output_bias);
        add_assign(&mut rows.stream, &rows.delta);
    }

    fn feed_forward(&self, layer: &Layer, rows: &mut Workspace) {
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

    /// Forgets all rows but `wanted`, which are in order.
    fn keep(&self, rows: &mut Workspace, wanted: &[usize]) {
        let width = self.config.queries() + 2 * self.config.keys();
        for (rows, width) in
            [(&mut rows.stream, self.config.hidden_size), (&mut rows.queries_keys_values, width)]
        {
            for (to, &from) in wanted.iter().enumerate() {
                rows.copy_within(from * width..(from + 1) * width, to * width);
            }
            rows.truncate(wanted.len() * width);
        }
    }
}

impl Config {
    /// Whether a model of this shape can read `batch`.
    ///
    /// # Errors
    /// A slice has no tokens, or one outside the vocabulary; or it does not fit into its blocks or the context.
    pub(super) fn check_batch(&self, batch: &[Slice<'_>]) -> Result<(), ModelError> {
        for slice in batch {
            let end = slice.position + slice.tokens.len();
            let known = |token: &TokenId| (token.0 as usize) < self.vocab_size;
            if slice.tokens.is_empty() || !slice.tokens.iter().all(known) {
                return Err(ModelError::Tokens);
            }
            if end > self.context_length || end > slice.blocks.len() * BLOCK_TOKENS {
                return Err(ModelError::ContextFull);
            }
        }
        Ok(())
    }
}

impl<'a> Slice<'a> {
    /// Where each of the tokens stands.
    fn places(&self) -> impl Iterator<Item = Place<'a>> {
        let table = self.blocks;
        (self.position..self.position + self.tokens.len()).map(move |position| Place { table, position })
    }
}

/// The rows whose logits are wanted.
fn wanted_rows(batch: &[Slice<'_>]) -> Vec<usize> {
    let mut end = 0;
    let mut wanted = Vec::new();
    for slice in batch {
        end += slice.tokens.len();
        wanted.extend(end - slice.wanted.min(slice.tokens.len())..end);
    }
    wanted
}

fn add_bias(x: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        x.chunks_exact_mut(bias.len()).for_each(|row| add_assign(row, bias));
    }
}
