//! The weights of a Gemma as the forward pass wants them, and how they come out of the files.
//!
//! What is multiplied with the same activations is one matrix: queries, keys and values, and the two halves of the
//! feed-forward's first step.

use super::config::{Config, LayerPart, Part};
use super::files::ModelFiles;
use super::weights::Weights;
use super::{ModelError, Quantize};
use codeseal_kernels::cpu::{Format, Matrix, Source};

/// All weights of a model.
pub(super) struct Parameters {
    /// A row for each token: what it means at the bottom, and what it is scored by at the top.
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    /// The scale of the last norm.
    pub(super) norm: Vec<f32>,
}

/// The weights of a layer. Biases are empty if there are none.
pub(super) struct Layer {
    pub(super) input_norm: Vec<f32>,
    pub(super) queries_keys_values: Matrix,
    pub(super) queries_keys_values_bias: Vec<f32>,
    pub(super) output: Matrix,
    pub(super) output_bias: Vec<f32>,
    pub(super) feed_forward_norm: Vec<f32>,
    pub(super) gate_up: Matrix,
    pub(super) down: Matrix,
}

impl Parameters {
    /// Loads what `config` asks for, calling `progress` with the bytes read and the bytes there are.
    ///
    /// Without `quantize`, weights stay what they are in the file, as far as [`as_written`] can.
    ///
    /// # Errors
    /// As [`Weights::open`] and [`Weights::read`].
    pub(super) fn load(
        files: &ModelFiles,
        config: &Config,
        quantize: Quantize,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let mut weights = Weights::open(files, config)?;
        let format = |part: Part| match quantize {
            Quantize::Q8_0 => Format::Q8_0,
            Quantize::Q4K => Format::Q4K,
            Quantize::None => as_written(weights.sources(part)),
        };
        let mut parameters = Self::zeros(config, format);
        weights.read(progress, |tensor, row, source, bytes| {
            parameters.fill(tensor.part, row, source, bytes);
            Ok(())
        })?;
        if !weights.norms_are_whole() {
            parameters.finish_norms();
        }
        Ok(parameters)
    }

    fn zeros(config: &Config, format: impl Fn(Part) -> Format) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.queries(), config.keys());
        let bias = |length| if config.attention_bias { vec![0.0; length] } else { Vec::new() };
        let layer = |number| {
            let matrix =
                |part, rows, columns| Matrix::zeros(format(Part::Layer(number, part)), rows, columns);
            Layer {
                input_norm: vec![0.0; hidden],
                queries_keys_values: matrix(LayerPart::QueriesKeysValues, queries + 2 * keys, hidden),
                queries_keys_values_bias: bias(queries + 2 * keys),
                output: matrix(LayerPart::Output, hidden, queries),
                output_bias: bias(hidden),
                feed_forward_norm: vec![0.0; hidden],
                gate_up: matrix(LayerPart::GateUp, 2 * inner, hidden),
                down: matrix(LayerPart::Down, hidden, inner),
            }
        };
        Self {
            embedding: Matrix::zeros(format(Part::Embedding), config.vocab_size, hidden),
            layers: (0..config.num_layers).map(layer).collect(),
            norm: vec![0.0; hidden],
        }
    }

    /// Puts `bytes`, whole rows from `row` on, where they belong.
    fn fill(&mut self, part: Part, row: usize, source: Source, bytes: &[u8]) {
        let vector = |to: &mut [f32]| {
            if let Some(to) = to.get_mut(row..) {
                source.read(bytes, to);
            }
        };
        match part {
            Part::Embedding => self.embedding.fill_rows(row, source, bytes),
            Part::Norm => vector(&mut self.norm),
            Part::Layer(number, part) => {
                let Some(layer) = self.layers.get_mut(number) else { return };
                match part {
                    LayerPart::InputNorm => vector(&mut layer.input_norm),
                    LayerPart::QueriesKeysValues => layer.queries_keys_values.fill_rows(row, source, bytes),
                    LayerPart::QueriesKeysValuesBias => vector(&mut layer.queries_keys_values_bias),
                    LayerPart::Output => layer.output.fill_rows(row, source, bytes),
                    LayerPart::OutputBias => vector(&mut layer.output_bias),
                    LayerPart::FeedForwardNorm => vector(&mut layer.feed_forward_norm),
                    LayerPart::GateUp => layer.gate_up.fill_rows(row, source, bytes),
                    LayerPart::Down => layer.down.fill_rows(row, source, bytes),
                }
            }
        }
    }

    /// Gemma's files hold by how much the scale of a norm is more than 1.
    fn finish_norms(&mut self) {
        let layers = self.layers.iter_mut();
        let norms = layers.flat_map(|layer| [&mut layer.input_norm, &mut layer.feed_forward_norm]);
        for scale in norms.chain([&mut self.norm]).flatten() {
            *scale += 1.0;
        }
    }

    /// How many bytes are read to make one token: all matrices once.
    pub(super) fn bytes(&self) -> usize {
        self.matrices().map(Matrix::bytes).sum()
    }

    /// The type that each matrix has in memory.
    pub(super) fn weights_types(&self) -> impl Iterator<Item = &'static str> {
        self.matrices().map(Matrix::weights_type)
    }

    fn matrices(&self) -> impl Iterator<Item = &Matrix> {
        let layers = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.queries_keys_values, &layer.output, &layer.gate_up, &layer.down]);
        layers.chain([&self.embedding])
    }
}

/// In what a matrix is kept whose pieces are written in `sources`: in their type if there is a kernel for it and all
/// have it. Quantized pieces of other types, or of several, become q8_0: exactly, where [`Source::as_q8_0`] says so. All
/// else becomes f32.
pub(super) fn as_written(sources: impl Iterator<Item = Source>) -> Format {
    let sources: Vec<_> = sources.collect();
    let all = |wanted: &[Source]| sources.iter().all(|source| wanted.contains(source));
    if all(&[Source::Bf16]) {
        Format::Bf16
    } else if all(&[Source::Q4K]) {
        Format::Q4K
    } else if sources.iter().all(|source| source.is_quantized()) {
        Format::Q8_0
    } else {
        Format::F32
    }
}

/// The numbers that `bytes` are.
pub(super) fn numbers(source: Source, bytes: &[u8]) -> Vec<f32> {
    let mut numbers = vec![0.0; source.numbers(bytes.len())];
    source.read(bytes, &mut numbers);
    numbers
}
