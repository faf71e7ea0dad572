//! What the engine needs of a model.

use super::Platform;
use crate::model::{DeviceModel, DeviceSession, Model, ModelError, Slice, StepRoom, Workspace};
use crate::tokenizer::TokenId;
use codeseal_kernels::cpu::{BlockId, KvPool, Level};
use codeseal_kernels::cuda::{Device, NO_TOKEN};
use codeseal_kernels::sampling::Choice;

/// A model as the engine sees it: blocks for keys and values, and steps over a batch. It belongs to one thread.
pub(super) trait Backend {
    /// Reads what `batch` adds to its sequences. For each wanted token, slice by slice, token by token, `choices` says
    /// how the one that follows may be chosen; where that is none, its logits are wanted.
    ///
    /// # Errors
    /// A token is outside the vocabulary, a sequence does not fit its blocks, or the device failed.
    fn step(&mut self, batch: &[Slice<'_>], choices: &[Option<Choice>]) -> Result<Rows<'_>, ModelError>;

    /// Overwrites a block with zeros.
    ///
    /// # Errors
    /// The device failed.
    fn clear(&mut self, block: BlockId) -> Result<(), ModelError>;

    /// Makes ready what would otherwise be made while somebody waits.
    ///
    /// # Errors
    /// The device failed.
    fn warm_up(&mut self) -> Result<(), ModelError> {
        Ok(())
    }

    /// How many blocks there are.
    fn blocks(&self) -> usize;

    /// The longest sequence, in tokens.
    fn context_length(&self) -> usize;

    /// The model's name.
    fn name(&self) -> &str;

    /// What computes its steps.
    fn platform(&self) -> Platform;

    /// Whether a token leaves the same keys and values when it is read with a prompt and when it was generated. If not,
    /// what was generated is not kept for later prompts: these would get other answers than without.
    fn reads_as_it_generates(&self) -> bool {
        true
    }
}

/// What a step says of the wanted tokens.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The logits of all wanted tokens, or of those for which nothing was chosen.
    logits: &'a [f32],
    vocabulary: usize,
    /// What was chosen; empty if only logits are returned.
    chosen: &'a [u32],
}

/// What a step says of a wanted token. Not to be printed: token ids are text.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Row<'a> {
    /// One logit for each of the vocabulary.
    Logits(&'a [f32]),
    /// The token that follows; none if the logits were not numbers.
    Chosen(Option<TokenId>),
}

impl<'a> Rows<'a> {
    /// Logits, `vocabulary` for each wanted token.
    pub(super) fn logits(logits: &'a [f32], vocabulary: usize) -> Self {
        Self { logits, vocabulary, chosen: &[] }
    }

    /// What is said of each wanted token, where `choices` are those that the step was given.
    pub(super) fn each(self, choices: &[Option<Choice>]) -> impl Iterator<Item = Row<'a>> {
        let mut logits = self.logits.chunks_exact(self.vocabulary.max(1));
        let chosen = self.chosen;
        choices.iter().enumerate().map_while(move |(number, choice)| {
            let token = chosen.get(number).filter(|_| choice.is_some());
            match token {
                Some(&token) => Some(Row::Chosen((token != NO_TOKEN).then_some(TokenId(token)))),
                None => logits.next().map(Row::Logits),
            }
        })
    }
}

/// A model on the CPU, and its blocks. It chooses nothing: whoever has the logits does.
pub(super) struct Cpu {
    model: Model,
    pool: KvPool,
    workspace: Workspace,
}

impl Cpu {
    /// `model` with so many blocks.
    pub(super) fn new(model: Model, blocks: usize) -> Self {
        Self { pool: model.kv_pool(blocks), model, workspace: Workspace::default() }
    }
}

impl Backend for Cpu {
    fn step(&mut self, batch: &[Slice<'_>], _choices: &[Option<Choice>]) -> Result<Rows<'_>, ModelError> {
        let vocabulary = self.model.config().vocab_size;
        let logits = self.model.step(&mut self.pool, batch, &mut self.workspace)?;
        Ok(Rows::logits(logits, vocabulary))
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.pool.clear(block);
        Ok(())
    }

    fn blocks(&self) -> usize {
        self.pool.block_count()
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
        }
    }
}

/// A model on a device, and its blocks.
pub(super) struct OnDevice(DeviceSession);

impl OnDevice {
    /// `model` with so many blocks, and room for steps of so much.
    ///
    /// # Errors
    /// The device has too little memory.
    pub(super) fn new<D: Device + 'static>(
        model: DeviceModel<D>,
        blocks: usize,
        room: StepRoom,
    ) -> Result<Self, ModelError> {
        Ok(Self(model.session(blocks, room)?))
    }
}

impl Backend for OnDevice {
    fn step(&mut self, batch: &[Slice<'_>], choices: &[Option<Choice>]) -> Result<Rows<'_>, ModelError> {
        let vocabulary = self.0.config().vocab_size;
        let outcome = self.0.step(batch, choices)?;
        Ok(Rows { logits: outcome.logits, vocabulary, chosen: outcome.chosen })
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.0.clear(block)
    }

    fn warm_up(&mut self) -> Result<(), ModelError> {
        self.0.record()?;
        if !self.0.is_recorded() {
            crate::telemetry::emit(crate::telemetry::Event::StepsNotRecorded);
        }
        Ok(())
    }

    fn blocks(&self) -> usize {
        self.0.blocks()
    }

    fn context_length(&self) -> usize {
        self.0.config().context_length
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn platform(&self) -> Platform {
        Platform {
            device: format!("cuda {}", self.0.device()),
            kernels: self.0.kernels().to_owned(),
            weights: self.0.weights_types().to_owned(),
        }
    }

    fn reads_as_it_generates(&self) -> bool {
        false
    }
}
