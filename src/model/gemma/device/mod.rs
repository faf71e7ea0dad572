//! A Gemma on a CUDA device: its weights there, its forward pass, and the steps around it.
//!
//! | module | holds |
//! |---|---|
//! | `forward` | the forward pass, launch by launch |
//! | `runner` | steps: prefill and decode, recorded launches, sampling, the KV cache |
//! | `input` | what a step copies to the device |
//! | `matrix` | a matrix on its way to the device |
//! | `limits` | the models that there are kernels for |

mod forward;
mod input;
mod limits;
mod matrix;
mod runner;

use half::{bf16, f16};

use codeseal_kernels::cuda::{Buffer, Device, DeviceError, KvLayout, Matrix, Narrow, angles};
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::sampling::RowSampler;

pub use self::forward::{Activations, Input, Network, Room};
pub(crate) use self::limits::check;
use self::matrix::{MatrixBuilder, Multiplied};
pub use self::runner::{Runner, RunnerRoom, StepOutput};
use super::super::error::ModelError;
use super::super::files::ModelFiles;
use super::super::quantize::Quantize;
use super::batch::Slice;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::gguf::Assumption;
use super::weights::{Weights, distinct};

/// The largest step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepRoom {
    /// Tokens that are read.
    pub(crate) rows: usize,
    /// Sequences, and tokens that get logits.
    pub(crate) num_logits: usize,
    /// Tokens of a decode step.
    pub(crate) batch: usize,
}

/// A model's weights on a device, without memory for steps.
pub(crate) struct DeviceModel<D: Device> {
    name: String,
    config: Config,
    assumption: Option<Assumption>,
    network: AnyNetwork<D>,
    weight_bytes: usize,
    device: D,
}

/// A network of the type that the device multiplies.
enum AnyNetwork<D: Device> {
    Bf16(Network<D, bf16>),
    F16(Network<D, f16>),
}

/// A model on a device, with a KV cache and memory for steps.
pub(crate) struct DeviceSession {
    name: String,
    device: String,
    kernels: String,
    weights_types: String,
    config: Config,
    assumption: Option<Assumption>,
    blocks: usize,
    runner: Box<dyn Steps>,
}

/// A [`Runner`] of either type.
trait Steps {
    fn step(
        &mut self,
        batch: &[Slice<'_>],
        samplers: &[Option<RowSampler>],
    ) -> Result<StepOutput<'_>, DeviceError>;
    fn clear(&mut self, block: BlockId) -> Result<(), DeviceError>;
    fn record(&mut self) -> Result<(), DeviceError>;
    fn is_recorded(&self) -> bool;
    fn launches_per_step(&self, rows: usize) -> Option<usize>;
}

impl<D: Device> DeviceModel<D> {
    /// Loads the model in `files` to `device` and calls it `name`.
    ///
    /// # Errors
    /// A file is missing or malformed, does not describe a Gemma, or one that there are no kernels for; or the device has
    /// too little memory.
    pub(crate) fn load(
        device: D,
        files: &ModelFiles,
        name: &str,
        quantize: Quantize,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        Self::from_checkpoint(device, &mut Checkpoint::open(files)?, name, quantize, progress)
    }

    /// Loads the model of `checkpoint`, as [`DeviceModel::load`] does.
    ///
    /// # Errors
    /// As [`DeviceModel::load`].
    pub(crate) fn from_checkpoint(
        device: D,
        checkpoint: &mut Checkpoint,
        name: &str,
        quantize: Quantize,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, ModelError> {
        let (config, assumption) = (checkpoint.config().clone(), checkpoint.assumption());
        check(&config, quantize)?;
        let (network, weight_bytes) = if device.has_bf16() {
            let (network, bytes) = load(&device, checkpoint, quantize, progress)?;
            (AnyNetwork::Bf16(network), bytes)
        } else {
            let (network, bytes) = load(&device, checkpoint, quantize, progress)?;
            (AnyNetwork::F16(network), bytes)
        };
        Ok(Self { name: name.to_owned(), config, assumption, network, weight_bytes, device })
    }

    /// A model with the configuration of `files` and random weights, which are made on `device`: for measuring.
    ///
    /// # Errors
    /// As [`DeviceModel::load`].
    pub(crate) fn random(
        device: D,
        files: &ModelFiles,
        name: &str,
        quantize: Quantize,
    ) -> Result<Self, ModelError> {
        let config = Checkpoint::open(files)?.config().clone();
        check(&config, quantize)?;
        let (network, weight_bytes) = if device.has_bf16() {
            let (network, bytes) = random(&device, &config, quantize)?;
            (AnyNetwork::Bf16(network), bytes)
        } else {
            let (network, bytes) = random(&device, &config, quantize)?;
            (AnyNetwork::F16(network), bytes)
        };
        Ok(Self { name: name.to_owned(), config, assumption: None, network, weight_bytes, device })
    }

    /// The model's configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The size of a KV block, in bytes.
    pub(crate) fn kv_block_bytes(&self) -> usize {
        // Both types that it may be in take as many.
        2 * kv_layout(&self.config).block_numbers()
    }

    /// Bytes of weights that are read to generate one token: all matrices once.
    pub(crate) fn bytes_per_token(&self) -> usize {
        self.weight_bytes
    }

    /// The device's name.
    pub(crate) fn device_name(&self) -> String {
        self.device.name()
    }

    /// How many bytes may be taken for KV blocks beside steps as large as `room`.
    ///
    /// # Errors
    /// The device does not say.
    pub(crate) fn available_bytes(&self, room: StepRoom) -> Result<u64, ModelError> {
        let room = self.runner_room(room, 0);
        let steps = match &self.network {
            AnyNetwork::Bf16(network) => Runner::bytes(network, room),
            AnyNetwork::F16(network) => Runner::bytes(network, room),
        } as u64;
        // The driver needs some for itself, and more when steps are recorded.
        Ok((self.device.free_bytes()?.saturating_sub(steps)) / 10 * 9)
    }

    /// Takes memory for `blocks` KV blocks, and for steps.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(crate) fn session(self, blocks: usize, room: StepRoom) -> Result<DeviceSession, ModelError>
    where
        D: 'static,
    {
        let room = self.runner_room(room, blocks);
        let Self { name, config, assumption, network, device, .. } = self;
        let (described, kernels, weights_types) = (device.name(), device.kernels(), network.weights_types());
        let runner: Box<dyn Steps> = match network {
            AnyNetwork::Bf16(network) => Box::new(Runner::new(device, network, room)?),
            AnyNetwork::F16(network) => Box::new(Runner::new(device, network, room)?),
        };
        let device = described;
        Ok(DeviceSession { name, device, kernels, weights_types, config, assumption, blocks, runner })
    }

    fn runner_room(&self, room: StepRoom, blocks: usize) -> RunnerRoom {
        let StepRoom { rows, num_logits, batch } = room;
        let table_width = self.config.context_length.div_ceil(BLOCK_TOKENS);
        RunnerRoom { blocks, table_width, rows, logit_rows: num_logits, batch }
    }
}

impl DeviceSession {
    /// The device's name.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// The compute capability that the kernels were compiled for.
    pub(crate) fn kernels(&self) -> &str {
        &self.kernels
    }

    /// The types that the weights have in memory, as [`super::Model::weights_types`] has them.
    pub(crate) fn weights_types(&self) -> &str {
        &self.weights_types
    }

    /// Takes a step: appends the keys and values of `batch`, and samples a token after each row that gets logits, or returns
    /// its logits where it has no sampler.
    ///
    /// # Errors
    /// A slice has no tokens, or one outside the vocabulary; it does not fit its blocks or the context; or the device
    /// failed, after which it cannot be used any more.
    pub(crate) fn step(
        &mut self,
        batch: &[Slice<'_>],
        samplers: &[Option<RowSampler>],
    ) -> Result<StepOutput<'_>, ModelError> {
        self.config.check_batch(batch)?;
        Ok(self.runner.step(batch, samplers)?)
    }

    /// Overwrites a KV block with zeros.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        Ok(self.runner.clear(block)?)
    }

    /// Records decode steps of all batch sizes.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn record(&mut self) -> Result<(), ModelError> {
        Ok(self.runner.record()?)
    }

    /// Whether decode steps are replayed: some devices cannot record.
    pub(crate) fn is_recorded(&self) -> bool {
        self.runner.is_recorded()
    }

    /// The number of launches of a decode step of `rows` sequences; none if it is not recorded.
    pub(crate) fn launches_per_step(&self, rows: usize) -> Option<usize> {
        self.runner.launches_per_step(rows)
    }

    /// The number of KV blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// The model's configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// A member of the configuration that is in no file: see [`Checkpoint::assumption`].
    pub(crate) fn assumption(&self) -> Option<Assumption> {
        self.assumption
    }

    /// The model's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl<D: Device, T: Narrow> Steps for Runner<D, T> {
    fn step(
        &mut self,
        batch: &[Slice<'_>],
        samplers: &[Option<RowSampler>],
    ) -> Result<StepOutput<'_>, DeviceError> {
        Self::step(self, batch, samplers)
    }

    fn clear(&mut self, block: BlockId) -> Result<(), DeviceError> {
        Self::clear(self, block)
    }

    fn record(&mut self) -> Result<(), DeviceError> {
        Self::record(self)
    }

    fn is_recorded(&self) -> bool {
        Self::is_recorded(self)
    }

    fn launches_per_step(&self, rows: usize) -> Option<usize> {
        Self::launches_per_step(self, rows)
    }
}

impl<D: Device> AnyNetwork<D> {
    /// The types that the weights have in memory, as [`super::Model::weights_types`] has them.
    fn weights_types(&self) -> String {
        match self {
            Self::Bf16(network) => weights_types(network, "bf16"),
            Self::F16(network) => weights_types(network, "f16"),
        }
    }
}

fn weights_types<D: Device, T: Narrow>(network: &Network<D, T>, plain: &'static str) -> String {
    distinct(network.weights.matrices().map(move |matrix| matrix.weights_type(plain)))
}

/// A network with the weights of `checkpoint`, and the bytes of its matrices.
fn load<D: Device, T: Multiplied>(
    device: &D,
    checkpoint: &mut Checkpoint,
    quantize: Quantize,
    progress: impl FnMut(u64, u64),
) -> Result<(Network<D, T>, usize), ModelError> {
    let allocate = |format, rows, columns| MatrixBuilder::new(device, format, rows, columns);
    let mut weights =
        Weights::load(checkpoint, quantize, allocate, progress, |matrix, first, source, bytes| {
            matrix.fill_rows(device, first, source, bytes)
        })?;
    // The kernels add 1 to scales of norms.
    if checkpoint.norms_include_one() {
        weights.norms_mut().flatten().for_each(|scale| *scale -= 1.0);
    }
    network(device, checkpoint.config(), weights)
}

/// As [`load`], with random weights that are made on the device. Norms scale by 1.
fn random<D: Device, T: Multiplied>(
    device: &D,
    config: &Config,
    quantize: Quantize,
) -> Result<(Network<D, T>, usize), ModelError> {
    let format = quantize.format([T::SOURCE].into_iter());
    let allocate = |_, rows, columns| MatrixBuilder::new(device, format, rows, columns);
    let mut weights = Weights::allocate(config, allocate)?;
    for (seed, matrix) in (0..).zip(weights.matrices_mut()) {
        matrix.fill_random(device, seed)?;
    }
    network(device, config, weights)
}

fn network<D: Device, T: Multiplied>(
    device: &D,
    config: &Config,
    weights: Weights<MatrixBuilder<D, T>, Vec<f32>>,
) -> Result<(Network<D, T>, usize), ModelError> {
    let bytes = weights.matrices().map(MatrixBuilder::bytes).sum();
    let vector = |numbers: Vec<f32>| Buffer::copied(device, &numbers);
    let weights: Weights<Matrix<D, T>, Buffer<D, f32>> = weights.map(MatrixBuilder::build, vector)?;
    let angles = Buffer::copied(device, &angles(config.rope_theta as f32, positions(config)))?;
    let (layout, epsilon) = (kv_layout(config), config.rms_norm_eps as f32);
    Ok((Network { layout, epsilon, weights, angles }, bytes))
}

/// The number of positions with angles. Whole blocks: a step that was launched ahead may be behind the last token of the
/// context.
fn positions(config: &Config) -> usize {
    config.context_length.next_multiple_of(BLOCK_TOKENS)
}

fn kv_layout(config: &Config) -> KvLayout {
    KvLayout { layers: config.num_layers, heads: config.num_heads, kv_heads: config.num_kv_heads }
}
