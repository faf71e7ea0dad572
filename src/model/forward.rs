//! Gemma's forward pass: f32 between the weights, only the last token's logits.
//!
//! Must not touch: files.

use std::sync::Arc;

use super::ModelError;
use super::config::Config;
use super::parameters::{Layer, Parameters};
use crate::kernels::cpu::{
    Angles, Heads, Kv, KvShape, Level, add_assign, attention, geglu, matmul, rms_norm, rotate,
};
use crate::tokenizer::TokenId;

/// What a forward pass needs beside a sequence. Sequences share it.
pub(super) struct Network {
    pub(super) config: Config,
    pub(super) parameters: Parameters,
    level: Level,
    /// By what angle per position each pair of a head turns.
    frequencies: Vec<f32>,
}

/// One text and the keys and values that the model keeps of it.
pub struct Sequence {
    network: Arc<Network>,
    kv: Kv,
    length: usize,
}

/// The activations of the tokens that are read together, a row for each.
struct Rows {
    /// The residual stream.
    stream: Vec<f32>,
    normed: Vec<f32>,
    queries_keys_values: Vec<f32>,
    seen: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
    /// What is added to the stream next.
    delta: Vec<f32>,
}

impl Network {
    pub(super) fn new(config: Config, parameters: Parameters) -> Self {
        let base = config.rope_theta as f32;
        let frequencies = (0..config.head_dim / 2)
            .map(|pair| base.powf(2.0 * pair as f32 / config.head_dim as f32).recip())
            .collect();
        Self { config, parameters, level: Level::best(), frequencies }
    }

    /// The logits that follow `tokens`, which come at `position`; their keys and values go into `kv`.
    fn forward(&self, kv: &mut Kv, position: usize, tokens: &[TokenId]) -> Vec<f32> {
        kv.reserve(position + tokens.len());
        let angles = Angles::new(&self.frequencies, position..position + tokens.len());
        let mut rows = Rows::embed(&self.config, &self.parameters, tokens);
        for (number, layer) in self.parameters.layers.iter().enumerate() {
            self.remember(kv, number, layer, position, &angles, &mut rows);
            // Nothing reads what the last layer makes of the other tokens.
            let wanted = if number + 1 == self.parameters.layers.len() { 1 } else { tokens.len() };
            let first = rows.keep_last(&self.config, wanted);
            self.attend(kv, number, layer, position + first, &mut rows);
            self.feed_forward(layer, &mut rows);
        }
        self.norm(&rows.stream, &self.parameters.norm, &mut rows.normed);
        let mut logits = vec![0.0; self.config.vocab_size];
        matmul(self.level, &self.parameters.embedding, &rows.normed, &mut logits);
        logits
    }

    /// Makes queries, keys and values, and keeps the latter two.
    fn remember(
        &self,
        kv: &mut Kv,
        number: usize,
        layer: &Layer,
        position: usize,
        angles: &Angles,
        rows: &mut Rows,
    ) {
        let (queries, keys) = (self.config.queries(), self.config.keys());
        let width = queries + 2 * keys;
        self.norm(&rows.stream, &layer.input_norm, &mut rows.normed);
        matmul(self.level, &layer.queries_keys_values, &rows.normed, &mut rows.queries_keys_values);
        add_bias(&mut rows.queries_keys_values, &layer.queries_keys_values_bias);
        rotate(angles, &mut rows.queries_keys_values, width, queries + keys);
        for (position, row) in (position..).zip(rows.queries_keys_values.chunks_exact(width)) {
            let (_, keys_values) = row.split_at(queries);
            let (key, value) = keys_values.split_at(keys);
            kv.write(number, position, key, value);
        }
    }

    fn attend(&self, kv: &Kv, number: usize, layer: &Layer, position: usize, rows: &mut Rows) {
        let heads = Heads {
            count: self.config.num_heads,
            queries: &rows.queries_keys_values,
            stride: self.config.queries() + 2 * self.config.keys(),
            position,
        };
        attention(self.level, kv, number, heads, &mut rows.seen);
        matmul(self.level, &layer.output, &rows.seen, &mut rows.delta);
        add_bias(&mut rows.delta, &layer.output_bias);
        add_assign(&mut rows.stream, &rows.delta);
    }

    fn feed_forward(&self, layer: &Layer, rows: &mut Rows) {
        self.norm(&rows.stream, &layer.feed_forward_norm, &mut rows.normed);
        matmul(self.level, &layer.gate_up, &rows.normed, &mut rows.gate_up);
        geglu(self.level, &rows.gate_up, self.config.intermediate_size, &mut rows.inner);
        matmul(self.level, &layer.down, &rows.inner, &mut rows.delta);
        add_assign(&mut rows.stream, &rows.delta);
    }

    fn norm(&self, x: &[f32], scale: &[f32], out: &mut [f32]) {
        rms_norm(self.level, x, scale, self.config.rms_norm_eps as f32, out);
    }
}

impl Rows {
    /// What each of `tokens` means by itself.
    fn embed(config: &Config, parameters: &Parameters, tokens: &[TokenId]) -> Self {
        let row = |width: usize| vec![0.0; tokens.len() * width];
        let mut stream = row(config.hidden_size);
        let factor = (config.hidden_size as f32).sqrt();
        for (token, row) in tokens.iter().zip(stream.chunks_exact_mut(config.hidden_size)) {
            parameters.embedding.read_row(token.0 as usize, factor, row);
        }
        Self {
            stream,
            normed: row(config.hidden_size),
            queries_keys_values: row(config.queries() + 2 * config.keys()),
            seen: row(config.queries()),
            gate_up: row(2 * config.intermediate_size),
            inner: row(config.intermediate_size),
            delta: row(config.hidden_size),
        }
    }

    /// Forgets all but the last `wanted` tokens, and returns how many that were.
    fn keep_last(&mut self, config: &Config, wanted: usize) -> usize {
        let first = self.stream.len() / config.hidden_size - wanted;
        if first > 0 {
            for (rows, width) in [
                (&mut self.stream, config.hidden_size),
                (&mut self.normed, config.hidden_size),
                (&mut self.queries_keys_values, config.queries() + 2 * config.keys()),
                (&mut self.seen, config.queries()),
                (&mut self.gate_up, 2 * config.intermediate_size),
                (&mut self.inner, config.intermediate_size),
                (&mut self.delta, config.hidden_size),
            ] {
                rows.drain(..first * width);
            }
        }
        first
    }
}

impl Sequence {
    pub(super) fn new(network: Arc<Network>) -> Self {
        let config = &network.config;
        let shape =
            KvShape { layers: config.num_layers, heads: config.num_kv_heads, head_dim: config.head_dim };
        Self { kv: Kv::new(shape), network, length: 0 }
    }

    /// Appends `tokens` and returns the logits of the token that follows: one for each of the vocabulary.
    ///
    /// # Errors
    /// There are no tokens, one is outside the vocabulary, or the context is full.
    pub fn forward(&mut self, tokens: &[TokenId]) -> Result<Vec<f32>, ModelError> {
        let config = &self.network.config;
        if tokens.is_empty() || tokens.iter().any(|id| id.0 as usize >= config.vocab_size) {
            return Err(ModelError::Tokens);
        }
        if self.length + tokens.len() > config.context_length {
            return Err(ModelError::ContextFull);
        }
        let (network, kv, length) = (&self.network, &mut self.kv, self.length);
        // As one visit to the worker threads: a hundred would each begin with waking them.
        let logits = rayon::scope(|_| network.forward(kv, length, tokens));
        self.length += tokens.len();
        Ok(logits)
    }
}

fn add_bias(x: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        x.chunks_exact_mut(bias.len()).for_each(|row| add_assign(row, bias));
    }
}
