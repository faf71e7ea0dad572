//! Weights on their way from files to a device, some rows at a time.
//!
//! Must not touch: the order in which files are read, launches.

use half::{bf16, f16};

use super::super::config::{Config, LayerPart, Part};
use super::super::files::ModelFiles;
use super::super::parameters::numbers;
use super::super::weights::Weights;
use super::super::{ModelError, Quantize};
use crate::kernels::cpu::Source;
use crate::kernels::cuda::{Buffer, Device, DeviceError, HEAD, LayerWeights, Matrix, angles, quantise};

/// Numbers that share a scale in q8_0, and the bytes that a file has for them.
const GROUP: usize = 32;
const GROUP_BYTES: usize = 2 + GROUP;

/// In what a device keeps a matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Bf16,
    F16,
    Q8_0,
}

/// A matrix that is being filled.
enum Filling<D: Device> {
    Bf16(Buffer<D, bf16>),
    F16(Buffer<D, f16>),
    Q8_0 { quants: Buffer<D, i8>, scales: Buffer<D, f16> },
}

struct FillingMatrix<D: Device> {
    numbers: Filling<D>,
    columns: usize,
}

struct FillingLayer<D: Device> {
    input_norm: Vec<f32>,
    queries_keys_values: FillingMatrix<D>,
    output: FillingMatrix<D>,
    feed_forward_norm: Vec<f32>,
    gate_up: FillingMatrix<D>,
    down: FillingMatrix<D>,
}

/// All weights of a model, on a device.
pub(super) struct DeviceWeights<D: Device> {
    pub(super) embedding: Matrix<D>,
    pub(super) layers: Vec<LayerWeights<D>>,
    pub(super) norm: Buffer<D, f32>,
    pub(super) angles: Buffer<D, f32>,
    /// How many bytes are read to make one token: all matrices once.
    pub(super) bytes: usize,
}

impl<D: Device> DeviceWeights<D> {
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
        let mut weights = Weights::open(files, config.tensors())?;
        let kept = |part: Part| match quantize {
            Quantize::Q8_0 => Kept::Q8_0,
            Quantize::None | Quantize::Q4K => as_written(weights.sources(part), device.has_bf16()),
        };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.queries(), config.keys());
        let matrix = |part, rows, columns| FillingMatrix::new(device, kept(part), rows, columns);
        let mut embedding = matrix(Part::Embedding, config.vocab_size, hidden)?;
        let mut norm = vec![0.0; hidden];
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
        let mut layers = (0..config.num_layers).map(layer).collect::<Result<Vec<_>, _>>()?;

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
        let vector = |numbers: Vec<f32>| {
            let numbers: Vec<f32> = numbers.into_iter().map(|number| number - above).collect();
            Buffer::copied(device, &numbers)
        };
        let matrices = layers
            .iter()
            .flat_map(|layer| [&layer.queries_keys_values, &layer.output, &layer.gate_up, &layer.down]);
        let bytes = matrices.chain([&embedding]).map(FillingMatrix::bytes).sum();
        let filled = layers.into_iter().map(|layer| {
            Ok(LayerWeights {
                input_norm: vector(layer.input_norm)?,
                queries_keys_values: layer.queries_keys_values.filled()?,
                output: layer.output.filled()?,
                feed_forward_norm: vector(layer.feed_forward_norm)?,
                gate_up: layer.gate_up.filled()?,
                down: layer.down.filled()?,
            })
        });
        Ok(Self {
            embedding: embedding.filled()?,
            layers: filled.collect::<Result<_, DeviceError>>()?,
            norm: vector(norm)?,
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
    if quantize == Quantize::Q4K {
        return Err(ModelError::NotOnDevice("weights in q4k"));
    }
    let groups = if quantize == Quantize::Q8_0 { GROUP } else { 8 };
    if !config.hidden_size.is_multiple_of(groups) || !config.intermediate_size.is_multiple_of(groups) {
        return Err(ModelError::NotOnDevice("rows that are not whole groups of numbers"));
    }
    Ok(())
}

/// In what a matrix is kept whose pieces are written in `sources`. Quantised pieces become eight bits. Floats stay what
/// they are where the device multiplies that, and f32 becomes as short as the others.
fn as_written(sources: impl Iterator<Item = Source>, has_bf16: bool) -> Kept {
    let sources: Vec<_> = sources.collect();
    let all = |wanted: &[Source]| sources.iter().all(|source| wanted.contains(source));
    if all(&[Source::Q8_0, Source::Q4K, Source::Q6K]) {
        Kept::Q8_0
    } else if all(&[Source::F16]) || !has_bf16 {
        Kept::F16
    } else {
        Kept::Bf16
    }
}

impl<D: Device> FillingMatrix<D> {
    fn new(device: &D, kept: Kept, rows: usize, columns: usize) -> Result<Self, DeviceError> {
        let all = rows * columns;
        let numbers = match kept {
            Kept::Bf16 => Filling::Bf16(Buffer::new(device, all)?),
            Kept::F16 => Filling::F16(Buffer::new(device, all)?),
            Kept::Q8_0 => {
                Filling::Q8_0 { quants: Buffer::new(device, all)?, scales: Buffer::new(device, all / GROUP)? }
            }
        };
        Ok(Self { numbers, columns })
    }

    /// Overwrites whole rows, from `first` on, with what `bytes` hold.
    fn fill_rows(
        &mut self,
        device: &D,
        first: usize,
        source: Source,
        bytes: &[u8],
    ) -> Result<(), ModelError> {
        let at = first * self.columns;
        match (&mut self.numbers, source) {
            (Filling::Bf16(to), Source::Bf16) => to.write_bytes(device, at, bytes)?,
            (Filling::F16(to), Source::F16) => to.write_bytes(device, at, bytes)?,
            (Filling::Bf16(to), _) => {
                let short: Vec<bf16> = numbers(source, bytes).into_iter().map(bf16::from_f32).collect();
                to.write(device, at, &short)?;
            }
            (Filling::F16(to), _) => {
                let short: Vec<f16> = numbers(source, bytes).into_iter().map(f16::from_f32).collect();
                to.write(device, at, &short)?;
            }
            (Filling::Q8_0 { quants, scales }, Source::Q8_0) => {
                let groups = bytes.as_chunks::<GROUP_BYTES>().0;
                let all: Vec<u8> = groups.iter().flat_map(|group| &group[2..]).copied().collect();
                quants.write_bytes(device, at, &all)?;
                let all: Vec<u8> = groups.iter().flat_map(|group| &group[..2]).copied().collect();
                scales.write_bytes(device, at / GROUP, &all)?;
            }
            (Filling::Q8_0 { quants, scales }, _) => {
                let (all_quants, all_scales) = quantise(&numbers(source, bytes));
                quants.write(device, at, &all_quants)?;
                scales.write(device, at / GROUP, &all_scales)?;
            }
        }
        Ok(())
    }

    fn filled(self) -> Result<Matrix<D>, DeviceError> {
        match self.numbers {
            Filling::Bf16(numbers) => Matrix::bf16(numbers, self.columns),
            Filling::F16(numbers) => Matrix::f16(numbers, self.columns),
            Filling::Q8_0 { quants, scales } => Matrix::q8_0(quants, scales, self.columns),
        }
    }

    fn bytes(&self) -> usize {
        match &self.numbers {
            Filling::Bf16(numbers) => 2 * numbers.len(),
            Filling::F16(numbers) => 2 * numbers.len(),
            Filling::Q8_0 { quants, scales } => quants.len() + 2 * scales.len(),
        }
    }
}
