//! How much memory a model takes on the processors, known before its weights are read.

use std::fmt;

use super::config::{Config, LayerPart, Part};
use super::files::ModelFiles;
use super::forward::kv_shape;
use super::gemma::read_config;
use super::parameters::as_written;
use super::weights::Weights;
use super::{ModelError, Quantize};
use crate::machine::{Available, Bound};
use codeseal_kernels::cpu::{Format, Matrix};

/// What the process takes besides, in bytes: tokenizer, threads, buffers.
const PROCESS: u64 = 64 << 20;

/// The memory of a model, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// All weights, as they are kept.
    pub weights: u64,
    /// A block of keys and values.
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

impl Needs {
    /// What the model in `files` takes when it is loaded as `quantize` says. Reads headers only.
    ///
    /// # Errors
    /// A file is missing or malformed, or does not describe a Gemma.
    pub(crate) fn of(files: &ModelFiles, quantize: Quantize) -> Result<Self, ModelError> {
        let config = read_config(files)?;
        let weights = Weights::open(files, &config)?;
        let format = |part| match quantize {
            Quantize::Q8_0 => Format::Q8_0,
            Quantize::Q4K => Format::Q4K,
            Quantize::None => as_written(weights.sources(part)),
        };
        Ok(Self::new(&config, weight_bytes(&config, format)))
    }

    /// What a model of this shape takes whose weights take `weights` bytes.
    pub(super) fn new(config: &Config, weights: usize) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = 2 * config.queries() + 2 * config.keys();
        let row = 3 * hidden + attention + 3 * inner;
        let numbers = |count: usize| (count * size_of::<f32>()) as u64;
        Self {
            weights: weights as u64,
            kv_block: kv_shape(config).block_bytes() as u64,
            context_length: config.context_length,
            row: numbers(row),
            logits: numbers(config.vocab_size),
        }
    }

    /// Scratch memory, in bytes, of a step that reads `rows` tokens and computes logits for `wanted` of them.
    pub(crate) fn scratch(&self, rows: usize, wanted: usize) -> u64 {
        let rows = self.row.saturating_mul(rows as u64);
        rows.saturating_add(self.logits.saturating_mul(wanted as u64)).saturating_add(PROCESS)
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

/// What the matrices take in the formats that `format` says.
fn weight_bytes(config: &Config, format: impl Fn(Part) -> Format) -> usize {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.queries(), config.keys());
    let layers = (0..config.num_layers).map(|number| {
        [
            (LayerPart::QueriesKeysValues, queries + 2 * keys, hidden),
            (LayerPart::Output, hidden, queries),
            (LayerPart::GateUp, 2 * inner, hidden),
            (LayerPart::Down, hidden, inner),
        ]
        .map(|(part, rows, columns)| Matrix::bytes_of(format(Part::Layer(number, part)), rows, columns))
        .iter()
        .sum::<usize>()
    });
    layers.sum::<usize>() + Matrix::bytes_of(format(Part::Embedding), config.vocab_size, hidden)
}

#[cfg(test)]
mod tests {
    use super::super::Model;
    use super::*;

    #[test]
    fn it_is_what_the_loaded_model_takes() {
        let files = ModelFiles::tiny();
        for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
            let needs = Needs::of(&files, quantize).unwrap();
            let model = Model::from_files(&files, "tiny", quantize, |_, _| {}).unwrap();
            assert_eq!(needs, model.needs(), "{quantize:?}");
            assert_eq!(needs.weights, model.bytes_per_token() as u64);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_all_figures() {
        let needs =
            Needs { weights: 5 << 30, kv_block: 1, context_length: 8192, row: 1 << 20, logits: 2 << 20 };
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
