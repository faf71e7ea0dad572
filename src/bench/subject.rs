//! The models that are measured: kernels on the CPU, kernels on a device, and candle.

use super::memory;
use crate::model::{
    BackendKind, Cache, CandleModel, DeviceModel, DeviceSession, Model, ModelError, ModelFiles, Quantize,
    Slice, StepRoom, Workspace,
};
use crate::token::TokenId;
use codeseal_kernels::cpu::KvPool;
use codeseal_kernels::cuda::Device;
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::sampling::{RowSampler, SamplingParams};

/// The sizes that memory is allocated for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// KV blocks.
    pub(super) blocks: usize,
    /// Prompt tokens of a step (prefill).
    pub(super) rows: usize,
    /// Sequences of a decode step (batch size).
    pub(super) batch: usize,
}

/// The sizes that bound the speed of a step: bytes of weights, of the KV cache, and the memory bandwidth.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The device's name; none for the CPU.
    pub(super) device: Option<String>,
    pub(super) backend: BackendKind,
    pub(super) weight_bytes: usize,
    pub(super) kv_bytes_per_token: usize,
    /// Memory bandwidth of the device; none for the CPU, whose bandwidth is measured last, when the model's memory is in use.
    pub(super) bytes_per_second: Option<f64>,
}

/// A model that takes steps and samples greedily.
pub(super) trait Subject {
    /// A step: the token after each slice.
    fn step(&mut self, batch: &[Slice<'_>]) -> Result<Vec<TokenId>, ModelError>;

    /// Writes zeros to a KV block.
    fn clear(&mut self, block: BlockId) -> Result<(), ModelError>;

    fn vocabulary(&self) -> usize;

    /// How many launches a decode step of this batch size takes, where that is known.
    fn launches_per_step(&self, _texts: usize) -> Option<usize> {
        None
    }
}

/// A model on the CPU.
pub(super) struct OnCpu {
    model: Model,
    pool: KvPool,
    workspace: Workspace,
}

impl OnCpu {
    pub(super) fn new(model: Model, room: Room) -> Self {
        Self { pool: model.kv_pool(room.blocks), model, workspace: Workspace::default() }
    }

    /// Those of the last step.
    #[cfg(test)]
    pub(super) fn logits(&self) -> &[f32] {
        self.workspace.logits()
    }

    pub(super) fn facts(model: &Model) -> Facts {
        Facts {
            device: None,
            backend: BackendKind::Kernels,
            weight_bytes: model.bytes_per_token(),
            kv_bytes_per_token: model.kv_block_bytes() / BLOCK_TOKENS,
            bytes_per_second: None,
        }
    }
}

impl Subject for OnCpu {
    fn step(&mut self, batch: &[Slice<'_>]) -> Result<Vec<TokenId>, ModelError> {
        let logits = self.model.step(&mut self.pool, batch, &mut self.workspace)?;
        Ok(logits.chunks(self.model.config().vocab_size).map(argmax).collect())
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.pool.clear(block);
        Ok(())
    }

    fn vocabulary(&self) -> usize {
        self.model.config().vocab_size
    }
}

/// A model in candle.
pub(super) struct OnCandle {
    model: CandleModel,
    cache: Cache,
}

impl OnCandle {
    /// # Errors
    /// The device has too little memory.
    pub(super) fn new(model: CandleModel, room: Room) -> Result<Self, ModelError> {
        Ok(Self { cache: model.cache(room.blocks)?, model })
    }

    pub(super) fn facts(model: &CandleModel) -> Facts {
        Facts {
            device: Some(model.place().name().to_owned()).filter(|name| name != "cpu"),
            backend: BackendKind::Candle,
            weight_bytes: model.bytes_per_token(),
            kv_bytes_per_token: model.kv_block_bytes() / BLOCK_TOKENS,
            bytes_per_second: None,
        }
    }
}

impl Subject for OnCandle {
    fn step(&mut self, batch: &[Slice<'_>]) -> Result<Vec<TokenId>, ModelError> {
        let logits = self.model.step(&mut self.cache, batch)?;
        Ok(logits.chunks(self.model.config().vocab_size).map(argmax).collect())
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.model.clear(&mut self.cache, block)
    }

    fn vocabulary(&self) -> usize {
        self.model.config().vocab_size
    }
}

/// A model on a device, which samples the tokens there.
pub(super) struct OnDevice(DeviceSession);

impl OnDevice {
    /// The model in `files` on `device`, and its sizes. Random weights are made on the device.
    pub(super) fn load<D: Device + 'static>(
        device: D,
        files: &ModelFiles,
        name: &str,
        quantize: Quantize,
        random: bool,
    ) -> Result<(DeviceModel<D>, Facts), ModelError> {
        let bytes_per_second = memory::device_bandwidth(&device)?;
        let model = if random {
            DeviceModel::random(device, files, name, quantize)?
        } else {
            DeviceModel::load(device, files, name, quantize, |_, _| {})?
        };
        let facts = Facts {
            device: Some(model.device_name()),
            backend: BackendKind::Kernels,
            weight_bytes: model.bytes_per_token(),
            kv_bytes_per_token: model.kv_block_bytes() / BLOCK_TOKENS,
            bytes_per_second: Some(bytes_per_second),
        };
        Ok((model, facts))
    }

    pub(super) fn new<D: Device + 'static>(model: DeviceModel<D>, room: Room) -> Result<Self, ModelError> {
        let steps = StepRoom { rows: room.rows.max(room.batch), num_logits: room.batch, batch: room.batch };
        let mut session = model.session(room.blocks, steps)?;
        session.record()?;
        Ok(Self(session))
    }
}

impl Subject for OnDevice {
    fn step(&mut self, batch: &[Slice<'_>]) -> Result<Vec<TokenId>, ModelError> {
        let greedy = vec![Some(RowSampler::new(&SamplingParams::GREEDY, 0)); batch.len()];
        Ok(self.0.step(batch, &greedy)?.chosen.iter().copied().map(TokenId).collect())
    }

    fn clear(&mut self, block: BlockId) -> Result<(), ModelError> {
        self.0.clear(block)
    }

    fn vocabulary(&self) -> usize {
        self.0.config().vocab_size
    }

    fn launches_per_step(&self, texts: usize) -> Option<usize> {
        self.0.launches_per_step(texts)
    }
}

/// The token of the largest logit, the first of several.
pub(super) fn argmax(logits: &[f32]) -> TokenId {
    let best = logits
        .iter()
        .enumerate()
        .fold((0, f32::MIN), |best, (token, &logit)| if logit > best.1 { (token, logit) } else { best });
    TokenId(best.0 as u32)
}
