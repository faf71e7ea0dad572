//! Generation: the async handle and the one model thread behind it.
//!
//! [`start`] moves the model to a thread of its own. A [`Handle`] submits requests, and each request's [`Generation`] receives
//! its events; dropping the [`Generation`] cancels the request.
//!
//! Allowed modules: machine, model, protocol, telemetry, token, tokenizer.
//! Forbidden: axum, google_cloud_*, hyper.

mod agreement;
mod backend;
mod blocks;
mod chain;
mod choose;
mod draft;
mod handle;
mod memory;
mod open;
mod phases;
mod queue;
mod reserve;
mod sampler;
mod scheduler;
mod stats;
mod thread;
mod warmup;
mod witness;

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use zeroize::Zeroize;

pub use self::agreement::{Agreement, Witness};
pub use self::choose::{start_candle, start_witnessed};
pub use self::handle::{Generation, Handle};
pub use self::open::{EngineParts, Open, OpenError, open};
pub use self::phases::Phases;
pub use self::stats::Load;
pub use self::thread::{Engine, start, start_on};
pub use crate::model::{BackendChoice, BackendKind, ModelFiles, Place, Quantize};
use crate::model::{ModelError, NotEnoughMemory};
use crate::protocol::Namespace;
use crate::token::TokenId;
use codeseal_kernels::cuda::DeviceError;

/// A request to generate tokens. The prompt is zeroized on drop.
#[derive(Clone)]
pub struct GenerationRequest {
    /// The prompt, `<bos>` and markers included.
    pub prompt: Vec<TokenId>,
    /// The maximum number of new tokens. With the prompt they must fit the context.
    pub max_new_tokens: usize,
    /// The tokens that end the generation; they are not part of it.
    pub stop_ids: &'static [TokenId],
    /// How each token is sampled.
    pub sampling: Sampling,
    /// The number of most likely tokens to return with each token, with log probabilities; none for no log probabilities.
    pub logprobs: Option<usize>,
    /// The tenant: nothing is shared between two namespaces.
    pub namespace: Namespace,
    /// The end of the request, waiting included.
    pub deadline: Instant,
}

/// Sampling parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy: the most likely token, the first of several.
    pub temperature: f64,
    /// Keeps only this many of the most likely tokens, and those as likely as the last of them; 0 keeps all.
    pub top_k: Option<usize>,
    /// Keeps only the most likely tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Keeps only tokens of at least this probability relative to the most likely one.
    pub min_p: Option<f64>,
    /// Divides the logits of tokens that occurred before; 1 disables it.
    pub repetition_penalty: f64,
    /// The same seed, prompt and options give the same tokens.
    pub seed: u64,
}

impl Sampling {
    /// Greedy sampling.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0, seed: 0 };
}

/// An event of a generation.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The request was admitted.
    Started {
        /// Prompt tokens that were found in the prefix cache.
        cached: usize,
    },
    /// The next token.
    Token(Token),
    /// The last event.
    Finished(Finish),
}

/// A token that was generated.
#[derive(Clone, PartialEq)]
pub struct Token {
    /// Which one.
    pub id: TokenId,
    /// Log probabilities, if the request asks for them.
    pub logprobs: Option<Box<Logprobs>>,
}

/// Natural logarithms of probabilities, before temperature, penalties and filters.
#[derive(Clone, PartialEq)]
pub struct Logprobs {
    /// Of the sampled token.
    pub chosen: f32,
    /// Of the most likely tokens, in order.
    pub top: Vec<(TokenId, f32)>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model made one of the stop tokens.
    Stop,
    /// As many tokens as were asked for.
    Length,
    /// The deadline passed; the tokens made before it were delivered.
    Deadline,
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("the engine is busy: try again later")]
    Full,
    /// The prompt is empty: it lacks even `<bos>`.
    #[error("the prompt has no tokens")]
    Empty,
    /// The prompt and the new tokens do not fit the context.
    #[error("the prompt and the new tokens exceed the context of {limit} tokens: shorten one of them")]
    TooLong {
        /// The context's length in tokens.
        limit: usize,
    },
    /// The engine was shut down, or its thread has died.
    #[error("the engine has stopped: restart the server")]
    Stopped,
}

/// Why a generation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The model failed, or the engine stopped meanwhile.
    #[error("the model failed to go on: try again")]
    Failed,
}

/// Why an engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration allows no request at all.
    #[error("the engine must be allowed to run at least one request")]
    NothingRunning,
    /// There is no memory for the KV cache of a single short request.
    #[error("{bytes} bytes are too few for keys and values: allow at least {least} with --kv-cache-mib")]
    TooFewBlocks {
        /// How many bytes are allowed.
        bytes: u64,
        /// How many there must be.
        least: u64,
    },
    /// Weights, keys and values and a step do not fit into memory.
    #[error(transparent)]
    NotEnoughMemory(#[from] NotEnoughMemory),
    /// The thread could not be started.
    #[error("cannot start the model thread: {0}")]
    Thread(#[source] std::io::Error),
    /// The thread pool could not be started.
    #[error("cannot start the threads that compute: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// There is no such device, it has too little memory, or it failed while the model was warmed up.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The weights cannot be loaded to the device.
    #[error("{0}")]
    Load(#[source] ModelError),
    /// The model failed while it was warmed up.
    #[error("the model failed its self-test: {0}")]
    Model(#[source] ModelError),
    /// The model's results are wrong.
    #[error("the model failed its self-test: the weights or the machine's arithmetic are broken")]
    Wrong,
    /// The model thread died while the model was warmed up.
    #[error("the model thread died during the self-test")]
    Panicked,
}

impl StartError {
    /// Why a model cannot be loaded.
    fn load(error: ModelError) -> Self {
        match error {
            ModelError::Device(error) => Self::Device(error),
            ModelError::Threads(error) => Self::Threads(error),
            error => Self::Load(error),
        }
    }
}

impl From<ModelError> for StartError {
    fn from(error: ModelError) -> Self {
        if let ModelError::Device(error) = error { Self::Device(error) } else { Self::Model(error) }
    }
}

/// The device that a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CPUs.
    #[default]
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
    /// The first CUDA device if there is one and the program was built with CUDA, else CPUs.
    Auto,
}

/// The name is that of no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device is cpu, cuda, cuda:N or auto")]
pub struct UnknownDevice;

impl FromStr for DeviceChoice {
    type Err = UnknownDevice;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "auto" => Ok(Self::Auto),
            _ => {
                let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number.map(Self::Cuda).ok_or(UnknownDevice)
            }
        }
    }
}

/// What computes a model's steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Platform {
    /// `cpu`, or `cuda` and the name of the device.
    pub device: String,
    /// The instruction set of the CPU kernels (`avx512`, `avx2`, `portable`), the compute capability that the CUDA kernels
    /// were made for (`sm_90`), or `candle`.
    pub kernels: String,
    /// The types that the weights have in memory, with `+` between them: `bf16`, `q4k+q8_0`.
    pub weights: String,
    /// The implementation.
    pub backend: BackendKind,
    /// The largest difference of a logit between kernels and candle at the start, in root mean squares of all; infinite if
    /// the kernels failed, none if they were not compared.
    pub difference: Option<f32>,
}

/// Limits of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Maximum batch size.
    pub max_running: usize,
    /// Queue length.
    pub max_waiting: usize,
    /// Token budget of a step, over all requests.
    pub step_tokens: usize,
    /// Size of the KV cache in bytes; none for a quarter of the available memory, or nine tenths of what is free on a device,
    /// and no more than can be used.
    pub kv_cache_bytes: Option<u64>,
    /// Draft tokens of a request per step; 0 disables speculative decoding.
    pub draft_tokens: usize,
    /// Whether KV blocks are cached for later requests of the same namespace.
    pub prefix_cache: bool,
    /// The device that the model runs on.
    pub device: DeviceChoice,
    /// The implementation of the model.
    pub backend: BackendChoice,
}

impl EngineConfig {
    /// The default token budget of a step: a prompt does not stall decoding for long.
    pub const STEP_TOKENS: usize = 256;
    /// The default number of draft tokens.
    pub const DRAFT_TOKENS: usize = 7;

    /// Requests that are running or waiting at the same time; more are refused.
    pub const fn capacity(&self) -> usize {
        self.max_running.saturating_add(self.max_waiting)
    }

    /// These limits, and defaults for everything else.
    pub const fn new(max_running: usize, max_waiting: usize) -> Self {
        Self {
            max_running,
            max_waiting,
            step_tokens: Self::STEP_TOKENS,
            kv_cache_bytes: None,
            draft_tokens: Self::DRAFT_TOKENS,
            prefix_cache: true,
            device: DeviceChoice::Cpu,
            backend: BackendChoice::Auto,
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Token ids are text.
        f.write_str("Token([redacted])")
    }
}

impl fmt::Debug for Logprobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The most likely tokens say what the text is about.
        f.write_str("Logprobs([redacted])")
    }
}

impl Drop for Logprobs {
    fn drop(&mut self) {
        for (id, logprob) in &mut self.top {
            id.zeroize();
            logprob.zeroize();
        }
    }
}

impl Drop for GenerationRequest {
    fn drop(&mut self) {
        self.prompt.zeroize();
    }
}

impl fmt::Debug for GenerationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationRequest")
            .field("max_new_tokens", &self.max_new_tokens)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
