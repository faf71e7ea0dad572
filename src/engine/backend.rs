//! The model as the engine uses it: our kernels on CPUs or on a device, or candle.

pub(super) mod candle;

use super::Platform;
use crate::model::{
    Assumption, BackendKind, DeviceModel, DeviceSession, Model, ModelError, Slice, StepRoom, Workspace,
};
use crate::token::TokenId;
use codeseal_kernels::cpu::{KvPool, Level};
use codeseal_kernels::cuda::{Device, NO_TOKEN};
use codeseal_kernels::kv::BlockId;
use codeseal_kernels::sampling::RowSampler;

/// A model with a KV cache, which takes steps over a batch. It belongs to one thread.
pub(super) trait Backend {
    /// Takes a step: appends the keys and values of `batch`. For each row that gets logits, slice by slice, `samplers` says
    /// how the backend may sample the next token; where it is none, logits are returned.
    ///
    /// # Errors
    /// A token is outside the vocabulary, a sequence does not fit its blocks, or the device failed.
    fn step(&mut self, batch: &[Slice<'_>], samplers: &[Option<RowSampler>]) -> Result<Rows<'_>, ModelError>;

    /// Overwrites a block with zeros.
    ///
    /// # Errors
    /// The device failed.
    fn clear(&mut self, block: BlockId) -> Result<(), ModelError>;

    /// Prepares what would otherwise delay the first requests.
    ///
    /// # Errors
    /// The device failed.
    fn warm_up(&mut self) -> Result<(), ModelError> {
        Ok(())
    }

    /// Whether the largest step is taken before requests are served. Devices load kernels when they are first launched.
    fn takes_largest_step(&self) -> bool {
        true
    }

    /// The number of KV blocks.
    fn blocks(&self) -> usize;

    /// The bytes of a block, if the memory of a block is taken when it is first written; none if all is taken already.
    fn unwritten_block_bytes(&self) -> Option<u64> {
        None
    }

    /// The longest sequence, in tokens.
    fn context_length(&self) -> usize;

    /// The model's name.
    fn name(&self) -> &str;

    /// What computes its steps.
    fn platform(&self) -> Platform;

    /// A member of the configuration that is in no file, so that the default is used.
    fn assumption(&self) -> Option<Assumption> {
        None
    }

    /// Whether prefill and decode give the same keys and values. If not, generated tokens are not cached for later prompts:
    /// these would get other results than without the cache.
    fn reads_as_it_generates(&self) -> bool {
        true
    }
}

/// The result of a step.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The logits of all rows that get them, or of those for which nothing was sampled.
    logits: &'a [f32],
    vocabulary: usize,
    /// The sampled tokens; empty if only logits are returned.
    chosen: &'a [u32],
}

/// The result of a step for one row that gets logits. Not to be printed: token ids are text.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Row<'a> {
    /// `[vocabulary]` logits.
    Logits(&'a [f32]),
    /// The token that was sampled; none if the logits were not all finite.
    Sampled(Option<TokenId>),
}

impl<'a> Rows<'a> {
    /// `[rows, vocabulary]` logits.
    pub(super) fn logits(logits: &'a [f32], vocabulary: usize) -> Self {
        Self { logits, vocabulary, chosen: &[] }
    }

    /// The result for each row, where `samplers` are those that the step was given.
    pub(super) fn each(self, samplers: &[Option<RowSampler>]) -> impl Iterator<Item = Row<'a>> {
        let mut logits = self.logits.chunks_exact(self.vocabulary.max(1));
        let chosen = self.chosen;
        samplers.iter().enumerate().map_while(move |(number, sampler)| {
            let token = chosen.get(number).filter(|_| sampler.is_some());
            match token {
                Some(&token) => Some(Row::Sampled((token != NO_TOKEN).then_some(TokenId(token)))),
                None => logits.next().map(Row::Logits),
            }
        })
    }
}

/// A model on CPUs, and its KV cache. It samples nothing: the caller does, with the logits.
pub(super) struct Cpu {
    model: Model,
    pool: KvPool,
    workspace: Workspace,
    room: StepRoom,
}

impl Cpu {
    /// `model` with `blocks` KV blocks, for steps as large as `room`.
    pub(super) fn new(model: Model, blocks: usize, room: StepRoom) -> Self {
        Self { pool: model.kv_pool(blocks), model, workspace: Workspace::default(), room }
    }
}

impl Backend for Cpu {
    fn step(
        &mut self,
        batch: &[Slice<'_>],
        _samplers: &[Option<RowSampler>],
    ) -> Result<Rows<'_>, ModelError> {
        let vocabulary = self.model.config().vocab_size;
        let logits = self.model.step(&mut self.pool, batch, &mut self.workspace)?;
        Ok(Rows::logits(logits, vocabulary))
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.pool.clear(block);
        Ok(())
    }

    /// Takes the memory of the largest step.
    fn warm_up(&mut self) -> Result<(), ModelError> {
        self.workspace.reserve(self.model.config(), self.room.rows, self.room.num_logits);
        Ok(())
    }

    /// Memory is taken without it, and there is nothing else to load.
    fn takes_largest_step(&self) -> bool {
        false
    }

    fn blocks(&self) -> usize {
        self.pool.block_count()
    }

    fn unwritten_block_bytes(&self) -> Option<u64> {
        Some(self.model.kv_block_bytes() as u64)
    }

    fn context_length(&self) -> usize {
        self.model.context_length()
    }

    fn name(&self) -> &str {
        self.model.name()
    }

    fn platform(&self) -> Platform {
        Platform {
            device: String::from("cpu"),
            kernels: Level::best().name().to_owned(),
            weights: self.model.weights_types(),
            backend: BackendKind::Kernels,
            difference: None,
        }
    }

    fn assumption(&self) -> Option<Assumption> {
        self.model.assumption()
    }
}

/// A model on a device, and its KV cache.
pub(super) struct OnDevice {
    session: DeviceSession,
    difference: Option<f32>,
}

impl OnDevice {
    /// `model` with `blocks` KV blocks, and memory for steps as large as `room`. `difference` is to candle, if they were compared.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(super) fn new<D: Device + 'static>(
        model: DeviceModel<D>,
        blocks: usize,
        room: StepRoom,
        difference: Option<f32>,
    ) -> Result<Self, ModelError> {
        Ok(Self { session: model.session(blocks, room)?, difference })
    }
}

impl Backend for OnDevice {
    fn step(&mut self, batch: &[Slice<'_>], samplers: &[Option<RowSampler>]) -> Result<Rows<'_>, ModelError> {
        let vocabulary = self.session.config().vocab_size;
        let output = self.session.step(batch, samplers)?;
        Ok(Rows { logits: output.logits, vocabulary, chosen: output.chosen })
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.session.clear(block)
    }

    fn warm_up(&mut self) -> Result<(), ModelError> {
        self.session.record()?;
        if !self.session.is_recorded() {
            crate::telemetry::emit(crate::telemetry::Event::StepsNotRecorded);
        }
        Ok(())
    }

    fn blocks(&self) -> usize {
        self.session.blocks()
    }

    fn context_length(&self) -> usize {
        self.session.config().context_length
    }

    fn name(&self) -> &str {
        self.session.name()
    }

    fn platform(&self) -> Platform {
        Platform {
            device: format!("cuda {}", self.session.device()),
            kernels: self.session.kernels().to_owned(),
            weights: self.session.weights_types().to_owned(),
            backend: BackendKind::Kernels,
            difference: self.difference,
        }
    }

    fn assumption(&self) -> Option<Assumption> {
        self.session.assumption()
    }

    fn reads_as_it_generates(&self) -> bool {
        false
    }
}
