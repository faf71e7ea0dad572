//! All weights of a model on their way from files to a device, or made there by chance.

use super::super::config::{Config, LayerPart, Part};
use super::super::files::ModelFiles;
use super::super::weights::Weights;
use super::super::{ModelError, Quantize};
use super::matrix::{FillingMatrix, Kept, Multiplied, as_written, quantised};
use codeseal_kernels::cuda::{
    Buffer, Device, DeviceError, GROUP, HEAD, LayerWeights, MOST_WIDTH, Matrix, angles,
};

struct FillingLayer<D: Device, T> {
    input_norm: Vec<f32>,
    queries_keys_values: FillingMatrix<D, T>,
    output: FillingMatrix<D, T>,
    feed_forward_norm: Vec<f32>,
    gate_up: FillingMatrix<D, T>,
    down: FillingMatrix<D, T>,
}

/// All weights of a model that are being filled. Norms are made on the host: they are small.
struct FillingWeights<D: Device, T> {
    embedding: FillingMatrix<D, T>,
    layers: Vec<FillingLayer<D, T>>,
    norm: Vec<f32>,
}

/// All weights of a model, on a device.
pub(super) struct DeviceWeights<D: Device, T> {
    pub(super) embedding: Matrix<D, T>,
    pub(super) layers: Vec<LayerWeights<D, T>>,
    pub(super) norm: Buffer<D, f32>,
    pub(super) angles: Buffer<D, f32>,
    /// How many bytes are read to make one token: all matrices once.
    pub(super) bytes: usize,
}

impl<D: Device, T: Multiplied> DeviceWeights<D, T> {
    /// Loads what `config` asks for. Without `quantize`, weights stay what they are in the file, as far as [`as_written`]
    /// can.
    ///
    /// # Errors
    /// A file is missing or malformed, or the device has too little memory.
    pub(super) fn load(
        device: &D,
        files: &ModelFiles,
        config: &Config,
        quantize: Quantize,
        positions: usize,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let mut weights = Weights::open(files, config)?;
        let kept = |part: Part| match quantize {
            Quantize::None => as_written(weights.sources(part)),
            _ => quantised(quantize),
        };
        let FillingWeights { mut embedding, mut layers, mut norm } =
            FillingWeights::new(device, config, kept)?;
        weights.read(progress, |tensor, row, source, bytes| {
            let vector = |to: &mut [f32]| {
                if let Some(to) = to.get_mut(row..) {
                    source.read(bytes, to);
                }
                Ok(())
            };
            match tensor.part {
                Part::Embedding => embedding.fill_rows(device, row, source, bytes),
                Part::Norm => vector(&mut norm),
                Part::Layer(number, part) => {
                    let Some(layer) = layers.get_mut(number) else { return Ok(()) };
                    match part {
                        LayerPart::InputNorm => vector(&mut layer.input_norm),
                        LayerPart::FeedForwardNorm => vector(&mut layer.feed_forward_norm),
                        LayerPart::QueriesKeysValues => {
                            layer.queries_keys_values.fill_rows(device, row, source, bytes)
                        }
                        LayerPart::Output => layer.output.fill_rows(device, row, source, bytes),
                        LayerPart::GateUp => layer.gate_up.fill_rows(device, row, source, bytes),
                        LayerPart::Down => layer.down.fill_rows(device, row, source, bytes),
                        // A model that has them is refused before this.
                        LayerPart::QueriesKeysValuesBias | LayerPart::OutputBias => Ok(()),
                    }
                }
            }
        })?;

        // The kernels add 1 to what they are given.
        let above = if weights.norms_are_whole() { 1.0 } else { 0.0 };
        FillingWeights { embedding, layers, norm }.filled(device, config, positions, above)
    }

    /// Weights by chance, made on the device: of the right shape and about the right size. Norms change nothing.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(super) fn draw(
        device: &D,
        config: &Config,
        quantize: Quantize,
        positions: usize,
    ) -> Result<Self, ModelError> {
        let mut weights = FillingWeights::new(device, config, |_| quantised(quantize))?;
        let layers = weights.layers.iter_mut().flat_map(|layer| {
            [&mut layer.queries_keys_values, &mut layer.output, &mut layer.gate_up, &mut layer.down]
        });
        for (seed, matrix) in (0..).zip(layers.chain([&mut weights.embedding])) {
            matrix.draw(device, seed)?;
        }
        weights.filled(device, config, positions, 0.0)
    }
}

impl<D: Device, T: Multiplied> FillingWeights<D, T> {
    /// Room for all weights, each matrix as `kept` says.
    fn new(device: &D, config: &Config, kept: impl Fn(Part) -> Kept) -> Result<Self, DeviceError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.queries(), config.keys());
        let matrix = |part, rows, columns| FillingMatrix::new(device, kept(part), rows, columns);
        let layer = |number| -> Result<_, DeviceError> {
            let matrix = |part, rows, columns| matrix(Part::Layer(number, part), rows, columns);
            Ok(FillingLayer {
                input_norm: vec![0.0; hidden],
                queries_keys_values: matrix(LayerPart::QueriesKeysValues, queries + 2 * keys, hidden)?,
                output: matrix(LayerPart::Output, hidden, queries)?,
                feed_forward_norm: vec![0.0; hidden],
                gate_up: matrix(LayerPart::GateUp, 2 * inner, hidden)?,
                down: matrix(LayerPart::Down, hidden, inner)?,
            })
        };
        Ok(Self {
            embedding: matrix(Part::Embedding, config.vocab_size, hidden)?,
            layers: (0..config.num_layers).map(layer).collect::<Result<_, _>>()?,
            norm: vec![0.0; hidden],
        })
    }

    /// The weights, where scales of norms are `above` what the kernels are given.
    fn filled(
        self,
        device: &D,
        config: &Config,
        positions: usize,
        above: f32,
    ) -> Result<DeviceWeights<D, T>, ModelError> {
        let vector = |numbers: Vec<f32>| {
            let numbers: Vec<f32> = numbers.into_iter().map(|number| number - above).collect();
            Buffer::copied(device, &numbers)
        };
        let matrices = self
            .layers
            .iter()
            .flat_map(|layer| [&layer.queries_keys_values, &layer.output, &layer.gate_up, &layer.down]);
        let bytes = matrices.chain([&self.embedding]).map(FillingMatrix::bytes).sum();
        let filled = self.layers.into_iter().map(|layer| {
            Ok(LayerWeights {
                input_norm: vector(layer.input_norm)?,
                queries_keys_values: layer.queries_keys_values.filled()?,
                output: layer.output.filled()?,
                feed_forward_norm: vector(layer.feed_forward_norm)?,
                gate_up: layer.gate_up.filled()?,
                down: layer.down.filled()?,
            })
        });
        Ok(DeviceWeights {
            embedding: self.embedding.filled()?,
            layers: filled.collect::<Result<_, DeviceError>>()?,
            norm: vector(self.norm)?,
            angles: Buffer::copied(device, &angles(config.rope_theta as f32, positions))?,
            bytes,
        })
    }
}

/// What a device has no kernels for.
///
/// # Errors
/// [`ModelError::NotOnDevice`]
pub(super) fn check(config: &Config, quantize: Quantize) -> Result<(), ModelError> {
    let sharing = config.num_heads / config.num_kv_heads;
    if config.head_dim != HEAD {
        return Err(ModelError::NotOnDevice("heads that are not 256 wide"));
    }
    if config.attention_bias {
        return Err(ModelError::NotOnDevice("attention with biases"));
    }
    if ![1, 2, 4, 8].contains(&sharing) {
        return Err(ModelError::NotOnDevice("keys that are shared by other than 1, 2, 4 or 8 heads"));
    }
    if config.hidden_size > MOST_WIDTH {
        return Err(ModelError::NotOnDevice("rows that are wider than 8,192"));
    }
    let groups = if quantize == Quantize::None { 8 } else { GROUP };
    if !config.hidden_size.is_multiple_of(groups) || !config.intermediate_size.is_multiple_of(groups) {
        return Err(ModelError::NotOnDevice("rows that are not whole groups of numbers"));
    }
    Ok(())
}
