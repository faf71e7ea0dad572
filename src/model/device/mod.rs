//! A model on a device: its weights there, and the same steps as the CPU's forward pass takes.

mod matrix;
mod weights;

use half::{bf16, f16};

use self::weights::DeviceWeights;
use super::config::Config;
use super::files::ModelFiles;
use super::forward::Slice;
use super::gemma::{distinct, read_config};
use super::{ModelError, Quantize};
use codeseal_kernels::cpu::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::cuda::{
    Device, DeviceError, KvLayout, Narrow, Network, Outcome, PAGE_TOKENS, Runner, RunnerRoom, Text,
};
use codeseal_kernels::sampling::Choice;

const _: () = assert!(BLOCK_TOKENS == PAGE_TOKENS, "blocks and pages are the same");

/// How much a step may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepRoom {
    /// Tokens that are read.
    pub(crate) rows: usize,
    /// Sequences, and tokens after which something is chosen.
    pub(crate) wanted: usize,
    /// Tokens, where no prompt is read.
    pub(crate) batch: usize,
}

/// A model's weights on a device, and nothing else yet.
pub(crate) struct DeviceModel<D: Device> {
    name: String,
    config: Config,
    network: AnyNetwork<D>,
    weight_bytes: usize,
    device: D,
}

/// A network of the type that the device multiplies.
enum AnyNetwork<D: Device> {
    Bf16(Network<D, bf16>),
    F16(Network<D, f16>),
}

/// A model on a device, with blocks for keys and values and memory for steps.
pub(crate) struct DeviceSession {
    name: String,
    device: String,
    kernels: String,
    weights_types: String,
    config: Config,
    blocks: usize,
    runner: Box<dyn Steps>,
}

/// A [`Runner`], whatever it keeps keys and values in.
trait Steps {
    fn step(&mut self, texts: &[Text<'_>], choices: &[Option<Choice>]) -> Result<Outcome<'_>, DeviceError>;
    fn clear(&mut self, page: usize) -> Result<(), DeviceError>;
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
        let config = read_config(files)?;
        weights::check(&config, quantize)?;
        let positions = positions(&config);
        let (network, weight_bytes) = if device.has_bf16() {
            AnyNetwork::bf16(
                &config,
                DeviceWeights::load(&device, files, &config, quantize, positions, progress)?,
            )
        } else {
            AnyNetwork::f16(
                &config,
                DeviceWeights::load(&device, files, &config, quantize, positions, progress)?,
            )
        };
        Ok(Self { name: name.to_owned(), config, network, weight_bytes, device })
    }

    /// A model with the configuration of `files` and weights by chance, which are made on `device`: to measure with.
    ///
    /// # Errors
    /// As [`DeviceModel::load`].
    pub(crate) fn draw(
        device: D,
        files: &ModelFiles,
        name: &str,
        quantize: Quantize,
    ) -> Result<Self, ModelError> {
        let config = read_config(files)?;
        weights::check(&config, quantize)?;
        let positions = positions(&config);
        let (network, weight_bytes) = if device.has_bf16() {
            AnyNetwork::bf16(&config, DeviceWeights::draw(&device, &config, quantize, positions)?)
        } else {
            AnyNetwork::f16(&config, DeviceWeights::draw(&device, &config, quantize, positions)?)
        };
        Ok(Self { name: name.to_owned(), config, network, weight_bytes, device })
    }

    /// The model's shape.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// How many bytes a block of keys and values takes.
    pub(crate) fn kv_block_bytes(&self) -> usize {
        // Both types that it may be in take as many.
        2 * layout(&self.config).page_numbers()
    }

    /// How many bytes of weights are read to make one token.
    pub(crate) fn bytes_per_token(&self) -> usize {
        self.weight_bytes
    }

    /// What the device is called.
    pub(crate) fn device_name(&self) -> String {
        self.device.name()
    }

    /// How many bytes may be given to keys and values, if steps need room for so much.
    ///
    /// # Errors
    /// The device does not say.
    pub(crate) fn available_bytes(&self, room: StepRoom) -> Result<u64, ModelError> {
        let room = self.runner_room(room, 0);
        let steps = match &self.network {
            AnyNetwork::Bf16(network) => network.step_bytes(room),
            AnyNetwork::F16(network) => network.step_bytes(room),
        } as u64;
        // The driver needs some for itself, and more when steps are recorded.
        Ok((self.device.free_bytes()?.saturating_sub(steps)) / 10 * 9)
    }

    /// Takes memory for `blocks` blocks of keys and values, and for steps.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(crate) fn session(self, blocks: usize, room: StepRoom) -> Result<DeviceSession, ModelError>
    where
        D: 'static,
    {
        let room = self.runner_room(room, blocks);
        let Self { name, config, network, device, .. } = self;
        let (described, kernels, weights_types) = (device.name(), device.kernels(), network.weights_types());
        let runner: Box<dyn Steps> = match network {
            AnyNetwork::Bf16(network) => Box::new(Runner::new(device, network, room)?),
            AnyNetwork::F16(network) => Box::new(Runner::new(device, network, room)?),
        };
        Ok(DeviceSession { name, device: described, kernels, weights_types, config, blocks, runner })
    }

    fn runner_room(&self, room: StepRoom, pages: usize) -> RunnerRoom {
        let table_width = self.config.context_length.div_ceil(PAGE_TOKENS);
        RunnerRoom { pages, table_width, rows: room.rows, scored: room.wanted, batch: room.batch }
    }
}

impl DeviceSession {
    /// What the device is called.
    pub(crate) fn device(&self) -> &str {
        &self.device
    }

    /// For which devices the kernels were made.
    pub(crate) fn kernels(&self) -> &str {
        &self.kernels
    }

    /// The types that the weights have in memory, as [`super::Model::weights_types`] has them.
    pub(crate) fn weights_types(&self) -> &str {
        &self.weights_types
    }

    /// Reads what `batch` adds to its sequences, and chooses after each wanted token by its choice, or returns the
    /// logits where there is none.
    ///
    /// # Errors
    /// A slice has no tokens, or one outside the vocabulary; it does not fit into its blocks or the context; or the
    /// device failed, after which it is of no use any more.
    pub(crate) fn step(
        &mut self,
        batch: &[Slice<'_>],
        choices: &[Option<Choice>],
    ) -> Result<Outcome<'_>, ModelError> {
        self.config.check_batch(batch)?;
        let ids: Vec<Vec<u32>> =
            batch.iter().map(|slice| slice.tokens.iter().map(|token| token.0).collect()).collect();
        let pages: Vec<Vec<u32>> =
            batch.iter().map(|slice| slice.blocks.iter().map(|block| block.0).collect()).collect();
        let texts = batch.iter().zip(&ids).zip(&pages).map(|((slice, ids), pages)| Text {
            ids,
            position: slice.position,
            generated: (slice.position + ids.len()).saturating_sub(slice.prompt.max(slice.position)),
            pages,
            wanted: slice.wanted.min(ids.len()),
        });
        let texts: Vec<_> = texts.collect();
        Ok(self.runner.step(&texts, choices)?)
    }

    /// Overwrites a block with zeros.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        Ok(self.runner.clear(block.0 as usize)?)
    }

    /// Makes all steps that are always the same ready to be repeated at once.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn record(&mut self) -> Result<(), ModelError> {
        Ok(self.runner.record()?)
    }

    /// Whether that succeeded: if not, steps are slower, and the same.
    pub(crate) fn is_recorded(&self) -> bool {
        self.runner.is_recorded()
    }

    /// How many launches a step of so many sequences is that go on by a token each; none if it is not recorded.
    pub(crate) fn launches_per_step(&self, rows: usize) -> Option<usize> {
        self.runner.launches_per_step(rows)
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.blocks
    }

    /// The model's shape.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What the model is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl<D: Device, T: Narrow> Steps for Runner<D, T> {
    fn step(&mut self, texts: &[Text<'_>], choices: &[Option<Choice>]) -> Result<Outcome<'_>, DeviceError> {
        Self::step(self, texts, choices)
    }

    fn clear(&mut self, page: usize) -> Result<(), DeviceError> {
        Self::clear(self, page)
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
            Self::Bf16(network) => distinct(weights_types(network, "bf16")),
            Self::F16(network) => distinct(weights_types(network, "f16")),
        }
    }

    /// The network of `config`, and how many bytes of weights are read to make one token.
    fn bf16(config: &Config, weights: DeviceWeights<D, bf16>) -> (Self, usize) {
        let bytes = weights.bytes;
        (Self::Bf16(network(config, weights)), bytes)
    }

    /// As [`AnyNetwork::bf16`].
    fn f16(config: &Config, weights: DeviceWeights<D, f16>) -> (Self, usize) {
        let bytes = weights.bytes;
        (Self::F16(network(config, weights)), bytes)
    }
}

fn weights_types<D: Device, T: Narrow>(
    network: &Network<D, T>,
    plain: &'static str,
) -> impl Iterator<Item = &'static str> {
    let layers = network
        .layers
        .iter()
        .flat_map(|layer| [&layer.queries_keys_values, &layer.output, &layer.gate_up, &layer.down]);
    layers.chain([&network.embedding]).map(move |matrix| matrix.weights_type(plain))
}

fn network<D: Device, T>(config: &Config, weights: DeviceWeights<D, T>) -> Network<D, T> {
    Network {
        layout: layout(config),
        epsilon: config.rms_norm_eps as f32,
        embedding: weights.embedding,
        layers: weights.layers,
        norm: weights.norm,
        angles: weights.angles,
    }
}

/// For how many positions there are angles. Whole pages: a step that was launched ahead may stand behind the last token
/// that there can be.
fn positions(config: &Config) -> usize {
    config.context_length.next_multiple_of(PAGE_TOKENS)
}

fn layout(config: &Config) -> KvLayout {
    KvLayout { layers: config.num_layers, heads: config.num_heads, kv_heads: config.num_kv_heads }
}
