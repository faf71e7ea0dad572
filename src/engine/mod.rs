//! Generation: the async handle and the one model thread behind it.
//!
//! [`start`] gives the model to a thread of its own. A [`Handle`] hands it requests, and each request's
//! [`Generation`] receives what comes of it; dropping the [`Generation`] is how a request is cancelled.
//!
//! Allowed modules: machine, model, protocol, telemetry, tokenizer.
//! Forbidden: axum, google_cloud_*, hyper.

mod backend;
mod blocks;
mod chain;
mod draft;
mod handle;
mod memory;
mod open;
mod queue;
mod sampler;
mod scheduler;
mod stats;
mod thread;
mod warmup;

use std::fmt;
use std::str::FromStr;
use std::time::Instant;

use zeroize::Zeroize;

pub use self::handle::{Generation, Handle};
pub use self::open::{Open, OpenError, Opened, open};
pub use self::stats::Load;
pub use self::thread::{Engine, start, start_on};
use crate::model::{ModelError, NotEnoughMemory};
pub use crate::model::{ModelFiles, Quantize};
use crate::protocol::Namespace;
use crate::tokenizer::TokenId;
use codeseal_kernels::cuda::DeviceError;

/// What to generate. The prompt is wiped when this is dropped.
#[derive(Clone)]
pub struct GenerationRequest {
    /// The prompt, `<bos>` and markers included.
    pub prompt: Vec<TokenId>,
    /// How many tokens to make at most. With the prompt they must fit the context.
    pub max_new_tokens: usize,
    /// The tokens that end the generation; they are not part of it.
    pub stop_ids: &'static [TokenId],
    /// How each token is chosen.
    pub sampling: Sampling,
    /// How many of the likeliest tokens come with each token, with their probabilities; none means none at all.
    pub logprobs: Option<usize>,
    /// Whose request this is: nothing is ever shared between two namespaces.
    pub namespace: Namespace,
    /// When to give up, waiting included.
    pub deadline: Instant,
}

/// How a token is chosen among the model's probabilities.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 always takes the likeliest token, the first of several.
    pub temperature: f64,
    /// Considers only so many of the likeliest tokens, and those as likely as the last of them; 0 is as good as none.
    pub top_k: Option<usize>,
    /// Considers only the likeliest tokens that together have this probability.
    pub top_p: Option<f64>,
    /// Considers only the tokens that are at least so likely, relative to the likeliest.
    pub min_p: Option<f64>,
    /// Divides the logits of tokens that the text has already; 1 leaves them as they are.
    pub repetition_penalty: f64,
    /// The same seed, prompt and options give the same tokens.
    pub seed: u64,
}

impl Sampling {
    /// Always the likeliest token.
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: 1.0, seed: 0 };
}

/// What a generation says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The wait is over: the model works on it.
    Started {
        /// How many of the prompt's tokens were found in the prefix cache.
        cached: usize,
    },
    /// The next token.
    Token(Token),
    /// Nothing follows.
    Finished(Finish),
}

/// A token that was generated.
#[derive(Clone, PartialEq)]
pub struct Token {
    /// Which one.
    pub id: TokenId,
    /// How likely it was, if that was asked for.
    pub logprobs: Option<Box<Logprobs>>,
}

/// Natural logarithms of probabilities, as the model gave them: before temperature, penalty and cuts.
#[derive(Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// Of the likeliest tokens, in order.
    pub likeliest: Vec<(TokenId, f32)>,
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
    /// As many requests as may are running and waiting.
    #[error("the engine is busy: try again later")]
    Full,
    /// There is no prompt: not even `<bos>`.
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

/// Why a generation broke off.
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
    /// There is no memory for the keys and values of a single short request.
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
    /// There is no thread to be had.
    #[error("cannot start the model thread: {0}")]
    Thread(#[source] std::io::Error),
    /// There are no threads to share its work.
    #[error("cannot start the threads that compute: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The device cannot be had, has too little memory, or failed while the model was warmed up.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The weights cannot be loaded to the device.
    #[error("{0}")]
    Load(#[source] ModelError),
    /// The model failed while it was warmed up.
    #[error("the model failed its self-test: {0}")]
    Model(#[source] ModelError),
    /// The model gives numbers that cannot be right.
    #[error("the model failed its self-test: the weights or the machine's arithmetic are broken")]
    Wrong,
    /// The model thread died while the model was warmed up.
    #[error("the model thread died during the self-test")]
    Panicked,
}

impl StartError {
    /// Why a model cannot be loaded.
    fn load(error: ModelError) -> Self {
        if let ModelError::Device(error) = error { Self::Device(error) } else { Self::Load(error) }
    }
}

impl From<ModelError> for StartError {
    fn from(error: ModelError) -> Self {
        if let ModelError::Device(error) = error { Self::Device(error) } else { Self::Model(error) }
    }
}

/// What a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// This machine's processors.
    #[default]
    Cpu,
    /// The CUDA device of this number.
    Cuda(usize),
    /// The first CUDA device, where there is one and this program knows it; the processors elsewhere.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `cpu`, or `cuda` and the name of the device.
    pub device: String,
    /// The instruction set of the CPU kernels (`avx512`, `avx2`, `portable`), or the compute capability that the CUDA
    /// kernels were made for (`sm_90`).
    pub kernels: String,
    /// The types that the weights have in memory, with `+` between them: `bf16`, `q4k+q8_0`.
    pub weights: String,
}

/// How much the engine takes on at once.
#[derive(Clone, Copy, Debug)]
pub struct EngineConfig {
    /// Requests that are worked on together.
    pub max_running: usize,
    /// Requests that wait for one of those to end.
    pub max_waiting: usize,
    /// Tokens that are read in one step, of all requests together.
    pub step_tokens: usize,
    /// Bytes for keys and values; none means a quarter of the memory that is available, or nine tenths of what is free on
    /// a device, and no more than can be used.
    pub kv_cache_bytes: Option<u64>,
    /// Tokens that are guessed for a request in one step; 0 turns that off.
    pub draft_tokens: usize,
    /// Whether keys and values are kept for later requests of the same namespace.
    pub prefix_cache: bool,
    /// What the model runs on.
    pub device: DeviceChoice,
}

impl EngineConfig {
    /// How many tokens a step reads unless configured: a prompt does not keep others from going on for long.
    pub const STEP_TOKENS: usize = 256;
    /// How many tokens are guessed unless configured.
    pub const DRAFT_TOKENS: usize = 7;

    /// Requests that are running or waiting at the same time; more are refused.
    pub const fn capacity(&self) -> usize {
        self.max_running.saturating_add(self.max_waiting)
    }

    /// So many requests at once, and everything else as it is unless configured.
    pub const fn new(max_running: usize, max_waiting: usize) -> Self {
        Self {
            max_running,
            max_waiting,
            step_tokens: Self::STEP_TOKENS,
            kv_cache_bytes: None,
            draft_tokens: Self::DRAFT_TOKENS,
            prefix_cache: true,
            device: DeviceChoice::Cpu,
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
        // The likeliest tokens say what the text is about.
        f.write_str("Logprobs([redacted])")
    }
}

impl Drop for Logprobs {
    fn drop(&mut self) {
        for (id, logprob) in &mut self.likeliest {
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
