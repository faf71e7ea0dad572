//! How much memory a model takes on CPUs, known before its weights are read.

use std::convert::Infallible;
use std::fmt;

use codeseal_kernels::cpu::Matrix;

use super::super::quantize::Quantize;
use super::checkpoint::Checkpoint;
use super::config::Config;
use super::forward::kv_shape;
use super::weights::Weights;
use crate::machine::{Available, Bound};

/// Other memory of the process, in bytes: tokenizer, threads, buffers.
const PROCESS: u64 = 64 << 20;

/// The memory of a model, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryNeeds {
    /// All weights, as they are kept.
    pub weights: u64,
    /// A KV block.
    pub(crate) kv_block: u64,
    /// The longest sequence, in tokens.
    pub(crate) context_length: usize,
    /// Activations of a token.
    row: u64,
    /// Logits after a token.
    logits: u64,
}

/// Weights, keys and values and the activations of a step are more than there is room for. All figures are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotEnoughMemory {
    /// For the weights.
    pub weights: u64,
    /// For keys and values.
    pub kv: u64,
    /// For the activations and logits of a step.
    pub scratch: u64,
    /// What can be taken.
    pub available: u64,
    /// What bounds that.
    pub bound: Bound,
    /// What to change.
    pub advice: &'static str,
}

impl MemoryNeeds {
    /// What the model of `checkpoint` takes when it is loaded with `quantize`.
    pub(crate) fn of(checkpoint: &Checkpoint, quantize: Quantize) -> Self {
        let matrix = |parameter, rows, columns| {
            let format = checkpoint.format(parameter, quantize);
            Ok::<_, Infallible>((format, Matrix::bytes_of(format, rows, columns)))
        };
        let Ok(weights) = Weights::allocate(checkpoint.config(), matrix);
        let shape = kv_shape(checkpoint.config(), weights.matrices().map(|(format, _)| *format));
        Self::new(checkpoint.config(), weights.matrices().map(|(_, bytes)| bytes).sum(), shape.block_bytes())
    }

    /// What a model of `config` takes whose weights take `weights` bytes, and a KV block `kv_block`.
    pub(super) fn new(config: &Config, weights: usize, kv_block: usize) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = 2 * config.query_width() + 2 * config.kv_width();
        let row = 3 * hidden + attention + 3 * inner;
        let numbers = |count: usize| (count * size_of::<f32>()) as u64;
        Self {
            weights: weights as u64,
            kv_block: kv_block as u64,
            context_length: config.context_length,
            row: numbers(row),
            logits: numbers(config.vocab_size),
        }
    }

    /// What a model of `config` takes on the CPU in candle, with weights of `weights` bytes and KV blocks of `kv_block` bytes.
    #[cfg(feature = "candle")]
    pub(super) fn of_candle(config: &Config, weights: usize, kv_block: usize) -> Self {
        let kernels = Self::new(config, weights, kv_block);
        // Each operation has a result of its own: twice the activations, and scores, masked scores, weights and weights by
        // chunk of every head and position.
        let scores = (4 * config.num_heads * config.context_length * size_of::<f32>()) as u64;
        Self { row: 2 * kernels.row + scores, ..kernels }
    }

    /// Scratch memory, in bytes, of a step that reads `rows` tokens and computes logits after `num_logits` of them.
    pub(crate) fn scratch(&self, rows: usize, num_logits: usize) -> u64 {
        let rows = self.row.saturating_mul(rows as u64);
        rows.saturating_add(self.logits.saturating_mul(num_logits as u64)).saturating_add(PROCESS)
    }

    /// Whether weights, `kv` bytes of keys and values and `scratch` bytes fit into what is available; `advice` says what
    /// to change if not.
    ///
    /// # Errors
    /// [`NotEnoughMemory`]
    pub(crate) fn check(
        &self,
        kv: u64,
        scratch: u64,
        available: Available,
        advice: &'static str,
    ) -> Result<(), NotEnoughMemory> {
        let Available { bytes, bound } = available;
        let error = NotEnoughMemory { weights: self.weights, kv, scratch, available: bytes, bound, advice };
        if error.all() > bytes { Err(error) } else { Ok(()) }
    }
}

impl NotEnoughMemory {
    fn all(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.scratch)
    }
}

impl std::error::Error for NotEnoughMemory {}

impl fmt::Display for NotEnoughMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(
            f,
            "not enough memory: weights take {} MiB, keys and values {} MiB, a step {} MiB, together {} MiB, and {} MiB \
             are available ({}): {}",
            mib(self.weights),
            mib(self.kv),
            mib(self.scratch),
            mib(self.all()),
            self.available >> 20,
            self.bound,
            self.advice
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::files::ModelFiles;
    use super::super::model::Model;
    use super::*;

    #[test]
    fn it_is_what_the_loaded_model_takes() {
        let files = ModelFiles::tiny();
        for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
            let needs = MemoryNeeds::of(&Checkpoint::open(&files).unwrap(), quantize);
            let model = Model::from_files(&files, "tiny", quantize, |_, _| {}).unwrap();
            assert_eq!(needs, model.needs(), "{quantize:?}");
            assert_eq!(needs.weights, model.bytes_per_token() as u64);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_all_figures() {
        let needs = MemoryNeeds {
            weights: 5 << 30,
            kv_block: 1,
            context_length: 8192,
            row: 1 << 20,
            logits: 2 << 20,
        };
        let available = Available { bytes: 8 << 30, bound: Bound::ControlGroup };
        let scratch = needs.scratch(256, 8);
        assert_eq!(scratch, (256 << 20) + (16 << 20) + PROCESS);
        assert_eq!(needs.check(2 << 30, scratch, available, "lower --kv-cache-mib"), Ok(()));
        let error = needs.check(3 << 30, scratch, available, "lower --kv-cache-mib").unwrap_err();
        assert_eq!(
            error.to_string(),
            "not enough memory: weights take 5120 MiB, keys and values 3072 MiB, a step 336 MiB, together 8528 MiB, and \
             8192 MiB are available (the memory limit of the control group): lower --kv-cache-mib"
        );
        let all = needs.check(u64::MAX, u64::MAX, available, "");
        assert!(all.is_err(), "sums do not overflow");
    }
}
