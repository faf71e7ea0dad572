//! The parameters of a Gemma, in whatever form matrices (`M`) and vectors (`V`) are kept, and loading them.
//!
//! The fields are listed here once: CPUs, devices and estimates of memory differ in `M` and `V` only.

use codeseal_kernels::cpu::{Format, Source};

use super::super::{ModelError, Quantize};
use super::checkpoint::{Checkpoint, Rows};
use super::config::Config;
use super::tensors::{LayerParameter, Parameter};

/// All parameters of a model.
pub struct Weights<M, V> {
    /// `[vocabulary, hidden]`: looked up at the bottom, multiplied at the top.
    pub embedding: M,
    /// One for each layer.
    pub layers: Vec<LayerWeights<M, V>>,
    /// The scale of the last norm.
    pub norm: V,
}

/// The parameters of a layer.
pub struct LayerWeights<M, V> {
    /// The scale of the norm before attention.
    pub input_norm: V,
    /// `[queries + keys + values, hidden]`, stacked in this order.
    pub queries_keys_values: M,
    /// Biases of the same rows.
    pub queries_keys_values_bias: Option<V>,
    /// `[hidden, queries]`: the projection of the attention's result.
    pub output: M,
    /// Its biases.
    pub output_bias: Option<V>,
    /// The scale of the norm before the feed-forward part.
    pub feed_forward_norm: V,
    /// `[2 · intermediate, hidden]`: gates, then ups.
    pub gate_up: M,
    /// `[hidden, intermediate]`.
    pub down: M,
}

/// A parameter to be filled.
enum Slot<'a, M> {
    Matrix(&'a mut M),
    Vector(&'a mut Vec<f32>),
}

impl<M> Weights<M, Vec<f32>> {
    /// Loads all parameters of `checkpoint`. `allocate` makes a matrix of a format with that many rows and columns, `fill`
    /// overwrites whole rows of it from a row on with bytes of a type, and `progress` gets the bytes read and all bytes.
    ///
    /// Scales of norms are as in the file: see [`Checkpoint::norms_include_one`].
    ///
    /// # Errors
    /// A file cannot be read, or `allocate` or `fill` fails.
    pub(super) fn load<E: Into<ModelError>>(
        checkpoint: &mut Checkpoint,
        quantize: Quantize,
        allocate: impl Fn(Format, usize, usize) -> Result<M, E>,
        mut progress: impl FnMut(u64, u64),
        mut fill: impl FnMut(&mut M, usize, Source, &[u8]) -> Result<(), ModelError>,
    ) -> Result<Self, ModelError> {
        let matrix =
            |parameter, rows, columns| allocate(checkpoint.format(parameter, quantize), rows, columns);
        let mut weights = Self::allocate(checkpoint.config(), matrix).map_err(Into::into)?;
        let (mut done, total) = (0, checkpoint.bytes());
        progress(done, total);
        checkpoint.read(|Rows { parameter, first, source, bytes }| {
            match weights.slot(parameter) {
                Some(Slot::Matrix(matrix)) => fill(matrix, first, source, bytes)?,
                Some(Slot::Vector(vector)) => source.read(bytes, vector.get_mut(first..).unwrap_or_default()),
                None => {}
            }
            done += bytes.len() as u64;
            progress(done, total);
            Ok(())
        })?;
        Ok(weights)
    }

    /// Parameters of the shapes of `config`: matrices by `matrix`, vectors of zeros.
    pub(super) fn allocate<E>(
        config: &Config,
        matrix: impl Fn(Parameter, usize, usize) -> Result<M, E>,
    ) -> Result<Self, E> {
        let vector = |parameter| {
            let [length, _] = config.layer_shape(parameter);
            vec![0.0; length]
        };
        let bias = |parameter| config.attention_bias.then(|| vector(parameter));
        let embedding = matrix(Parameter::Embedding, config.vocab_size, config.hidden_size)?;
        let layer = |number| -> Result<LayerWeights<M, Vec<f32>>, E> {
            let matrix = |parameter| {
                let [rows, columns] = config.layer_shape(parameter);
                matrix(Parameter::Layer(number, parameter), rows, columns)
            };
            Ok(LayerWeights {
                input_norm: vector(LayerParameter::InputNorm),
                queries_keys_values: matrix(LayerParameter::QueriesKeysValues)?,
                queries_keys_values_bias: bias(LayerParameter::QueriesKeysValuesBias),
                output: matrix(LayerParameter::Output)?,
                output_bias: bias(LayerParameter::OutputBias),
                feed_forward_norm: vector(LayerParameter::FeedForwardNorm),
                gate_up: matrix(LayerParameter::GateUp)?,
                down: matrix(LayerParameter::Down)?,
            })
        };
        Ok(Self {
            embedding,
            layers: (0..config.num_layers).map(layer).collect::<Result<_, _>>()?,
            norm: vec![0.0; config.hidden_size],
        })
    }

    /// Where `parameter` is kept.
    fn slot(&mut self, parameter: Parameter) -> Option<Slot<'_, M>> {
        let (number, parameter) = match parameter {
            Parameter::Embedding => return Some(Slot::Matrix(&mut self.embedding)),
            Parameter::Norm => return Some(Slot::Vector(&mut self.norm)),
            Parameter::Layer(number, parameter) => (number, parameter),
        };
        let layer = self.layers.get_mut(number)?;
        Some(match parameter {
            LayerParameter::InputNorm => Slot::Vector(&mut layer.input_norm),
            LayerParameter::QueriesKeysValues => Slot::Matrix(&mut layer.queries_keys_values),
            LayerParameter::QueriesKeysValuesBias => Slot::Vector(layer.queries_keys_values_bias.as_mut()?),
            LayerParameter::Output => Slot::Matrix(&mut layer.output),
            LayerParameter::OutputBias => Slot::Vector(layer.output_bias.as_mut()?),
            LayerParameter::FeedForwardNorm => Slot::Vector(&mut layer.feed_forward_norm),
            LayerParameter::GateUp => Slot::Matrix(&mut layer.gate_up),
            LayerParameter::Down => Slot::Matrix(&mut layer.down),
        })
    }
}

impl<M, V> Weights<M, V> {
    /// All matrices, the embedding last.
    pub(super) fn matrices(&self) -> impl Iterator<Item = &M> {
        let layers = self.layers.iter();
        layers
            .flat_map(|layer| [&layer.queries_keys_values, &layer.output, &layer.gate_up, &layer.down])
            .chain([&self.embedding])
    }

    /// As [`Weights::matrices`].
    pub(super) fn matrices_mut(&mut self) -> impl Iterator<Item = &mut M> {
        let layers = self.layers.iter_mut();
        layers
            .flat_map(|layer| {
                [&mut layer.queries_keys_values, &mut layer.output, &mut layer.gate_up, &mut layer.down]
            })
            .chain([&mut self.embedding])
    }

    /// The scales of all norms.
    pub(super) fn norms_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let layers = self.layers.iter_mut();
        layers.flat_map(|layer| [&mut layer.input_norm, &mut layer.feed_forward_norm]).chain([&mut self.norm])
    }

    /// The same parameters in another form.
    ///
    /// # Errors
    /// As `matrix` and `vector`.
    pub(super) fn map<N, W, E>(
        self,
        matrix: impl Fn(M) -> Result<N, E>,
        vector: impl Fn(V) -> Result<W, E>,
    ) -> Result<Weights<N, W>, E> {
        let layer = |layer: LayerWeights<M, V>| -> Result<LayerWeights<N, W>, E> {
            Ok(LayerWeights {
                input_norm: vector(layer.input_norm)?,
                queries_keys_values: matrix(layer.queries_keys_values)?,
                queries_keys_values_bias: layer.queries_keys_values_bias.map(&vector).transpose()?,
                output: matrix(layer.output)?,
                output_bias: layer.output_bias.map(&vector).transpose()?,
                feed_forward_norm: vector(layer.feed_forward_norm)?,
                gate_up: matrix(layer.gate_up)?,
                down: matrix(layer.down)?,
            })
        };
        Ok(Weights {
            embedding: matrix(self.embedding)?,
            layers: self.layers.into_iter().map(layer).collect::<Result<_, _>>()?,
            norm: vector(self.norm)?,
        })
    }
}

/// Each of `types` once, in order of appearance, with `+` between them.
pub(super) fn distinct(types: impl Iterator<Item = &'static str>) -> String {
    let mut seen = Vec::new();
    for found in types {
        if !seen.contains(&found) {
            seen.push(found);
        }
    }
    seen.join("+")
}
