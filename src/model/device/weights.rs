//! Weights on their way from files to a device, some rows at a time.
//!
//! Must not touch: the order in which files are read, launches.

use std::borrow::Cow;

use half::{bf16, f16};

use super::super::config::{Config, LayerPart, Part};
use super::super::files::ModelFiles;
use super::super::parameters::numbers;
use super::super::weights::Weights;
use super::super::{ModelError, Quantize};
use crate::kernels::cpu::{Source, quantise_q4k};
use crate::kernels::cuda::{
    BLOCK, Buffer, Device, DeviceError, GROUP, HEAD, LayerWeights, Matrix, Narrow, angles, arrange_q4k,
    arrange_q8_0, q4k_words, q8_0_words, quantise,
};

/// In what a device keeps a matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// As tensor cores multiply them.
    Plain,
    Q8_0,
    /// Where rows are no multiple of 256 long, [`Kept::Q8_0`] takes its place.
    Q4K,
}

/// The type that a device multiplies.
pub(super) trait Multiplied: Narrow {
    /// How files have it.
    const SOURCE: Source;

    fn from_f32(number: f32) -> Self;
}

impl Multiplied for bf16 {
    const SOURCE: Source = Source::Bf16;

    fn from_f32(number: f32) -> Self {
        Self::from_f32(number)
    }
}

impl Multiplied for f16 {
    const SOURCE: Source = Source::F16;

    fn from_f32(number: f32) -> Self {
        Self::from_f32(number)
    }
}

/// A matrix that is being filled.
enum Filling<D: Device, T> {
    Plain(Buffer<D, T>),
    Q8_0 { quants: Buffer<D, u32>, scales: Buffer<D, u32> },
    Q4K { quants: Buffer<D, u32>, heads: Buffer<D, u32> },
}

struct FillingMatrix<D: Device, T> {
    numbers: Filling<D, T>,
    columns: usize,
}

struct FillingLayer<D: Device, T> {
    input_norm: Vec<f32>,
    queries_keys_values: FillingMatrix<D, T>,
    output: FillingMatrix<D, T>,
    feed_forward_norm: Vec<f32>,
    gate_up: FillingMatrix<D, T>,
    down: FillingMatrix<D, T>,
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
        let mut weights = Weights::open(files, config.tensors())?;
        let kept = |part: Part| match quantize {
            Quantize::Q8_0 => Kept::Q8_0,
            Quantize::Q4K => Kept::Q4K,
            Quantize::None => as_written(weights.sources(part)),
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
    let groups = if quantize == Quantize::None { 8 } else { GROUP };
    if !config.hidden_size.is_multiple_of(groups) || !config.intermediate_size.is_multiple_of(groups) {
        return Err(ModelError::NotOnDevice("rows that are not whole groups of numbers"));
    }
    Ok(())
}

/// In what a matrix is kept whose pieces are written in `sources`. Quantised pieces of different types become eight bits,
/// and floats the type that the device multiplies.
fn as_written(sources: impl Iterator<Item = Source>) -> Kept {
    let sources: Vec<_> = sources.collect();
    let all = |wanted: &[Source]| sources.iter().all(|source| wanted.contains(source));
    if all(&[Source::Q4K]) {
        Kept::Q4K
    } else if all(&[Source::Q8_0, Source::Q4K, Source::Q6K]) {
        Kept::Q8_0
    } else {
        Kept::Plain
    }
}

impl<D: Device, T: Multiplied> FillingMatrix<D, T> {
    fn new(device: &D, kept: Kept, rows: usize, columns: usize) -> Result<Self, DeviceError> {
        let room = |words: usize| Buffer::new(device, rows * words);
        let numbers = match kept {
            Kept::Plain => Filling::Plain(Buffer::new(device, rows * columns)?),
            Kept::Q4K if columns.is_multiple_of(BLOCK) => {
                let [quants, heads] = q4k_words(columns);
                Filling::Q4K { quants: room(quants)?, heads: room(heads)? }
            }
            Kept::Q8_0 | Kept::Q4K => {
                let [quants, scales] = q8_0_words(columns);
                Filling::Q8_0 { quants: room(quants)?, scales: room(scales)? }
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
        let columns = self.columns;
        match &mut self.numbers {
            Filling::Plain(to) if source == T::SOURCE => to.write_bytes(device, first * columns, bytes)?,
            Filling::Plain(to) => {
                let short: Vec<T> = numbers(source, bytes).into_iter().map(T::from_f32).collect();
                to.write(device, first * columns, &short)?;
            }
            Filling::Q8_0 { quants, scales } => {
                let blocks = match source {
                    Source::Q8_0 => Cow::Borrowed(bytes),
                    _ => Cow::Owned(quantise(&numbers(source, bytes))),
                };
                let [each, each_scales] = q8_0_words(columns);
                let [all, all_scales] = arrange_q8_0(columns, &blocks);
                quants.write_bytes(device, first * each, &all)?;
                scales.write_bytes(device, first * each_scales, &all_scales)?;
            }
            Filling::Q4K { quants, heads } => {
                let blocks = match source {
                    Source::Q4K => Cow::Borrowed(bytes),
                    _ => Cow::Owned(quantise_q4k(&numbers(source, bytes))),
                };
                let [each, each_heads] = q4k_words(columns);
                let [all, all_heads] = arrange_q4k(&blocks);
                quants.write_bytes(device, first * each, &all)?;
                heads.write_bytes(device, first * each_heads, &all_heads)?;
            }
        }
        Ok(())
    }

    fn filled(self) -> Result<Matrix<D, T>, DeviceError> {
        match self.numbers {
            Filling::Plain(numbers) => Matrix::plain(numbers, self.columns),
            Filling::Q8_0 { quants, scales } => Matrix::q8_0(quants, scales, self.columns),
            Filling::Q4K { quants, heads } => Matrix::q4k(quants, heads, self.columns),
        }
    }

    fn bytes(&self) -> usize {
        match &self.numbers {
            Filling::Plain(numbers) => 2 * numbers.len(),
            Filling::Q8_0 { quants, scales: other } | Filling::Q4K { quants, heads: other } => {
                4 * (quants.len() + other.len())
            }
        }
    }
}
