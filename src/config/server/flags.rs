//! The flags of `codeseal-server`, as typed. Each doc comment is the manual.
//!
//! Must not touch: what the flags mean together.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

use super::bench::{BenchArgs, CheckArgs};
use super::eval::EvalCommand;
#[cfg(feature = "client")]
use super::loadtest::LoadtestArgs;
use crate::attestation::{OnTokenExpiry, Profile};
use crate::engine::{DeviceChoice, EngineConfig};
use crate::hub::ModelSource;
use crate::keys::{KeyName, WipAudience};
use crate::model::Quantize;
use crate::protocol::DEFAULT_NEW_TOKENS;
use crate::server::{Shaping, ShapingMode};
use crate::telemetry::{LogFormat, LogLevel};

const EXIT_CODES: &str = "\
Exit codes:
  0   stopped by a signal, with every request that was running answered
  64  wrong usage or configuration
  69  too little memory, or no CUDA device where one is asked for, or it failed
  70  internal failure
  75  stopped because the attestation token expired (--on-token-expiry exit)
  78  this machine's attestation does not fit --profile; no port was opened

On Confidential Space, configuration belongs into the image, where it is measured: leave
tee.launch_policy.allow_env_override empty and allow_cmd_override false.";

/// No count without a bound of its own needs to be larger.
const MAX_COUNT: u64 = 1 << 28;
/// More texts in one step are of no use to any model.
const MAX_RUNNING: u64 = 4096;
/// Waiting longer than that is no waiting.
const MAX_WAITING: u64 = 65_536;
/// As many tokens as the longest context of any model.
const MAX_STEP_TOKENS: u64 = 1 << 17;
/// 16 TiB.
const MAX_KV_CACHE_MIB: u64 = 1 << 24;
/// 64 MiB: no prompt that fits a context is larger.
const MAX_BODY_BYTES: u64 = 64 << 20;
/// As many as there are ports.
const MAX_CONNECTIONS: u64 = 65_536;
/// About 1 GiB of them.
const MAX_REPLAY_ENTRIES: u64 = 10_000_000;
/// Longer guesses are hardly ever right.
const MAX_DRAFT: u64 = 32;
/// The launcher makes one after the other, and each takes it a moment.
const MAX_ATTESTATIONS: u64 = 6000;
/// A day.
const MAX_SECONDS: u64 = 86_400;

/// A confidential workload that completes code: prompts are opened here and nowhere else.
#[derive(Parser)]
#[command(
    name = "codeseal-server",
    version,
    after_help = EXIT_CODES,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct ServerArgs {
    #[command(subcommand)]
    pub(super) command: Option<ServerCommand>,

    #[command(flatten)]
    pub(super) serve: Option<ServeArgs>,
}

/// What `codeseal-server` does besides serving.
#[derive(Subcommand)]
pub(super) enum ServerCommand {
    /// Measure how fast a model is on this machine: needs neither keys nor attestation
    Bench(BenchArgs),

    /// Check that a CUDA device computes what this machine's processors do: needs neither a model nor keys
    KernelsCheck(CheckArgs),

    /// Measure a model: needs neither keys nor attestation
    #[command(subcommand)]
    Eval(EvalCommand),

    /// Put load on a running server through the seal, and report what its clients see
    #[cfg(feature = "client")]
    Loadtest(Box<LoadtestArgs>),

    /// Look after models/manifest.toml
    #[command(subcommand)]
    Models(ModelsCommand),
}

/// What can be done with the manifest. No `Debug`: a token may be among it.
#[derive(Subcommand)]
pub enum ModelsCommand {
    /// Print the hash over a model's files, which `/attestation` binds and a client's policy can pin
    Digest {
        /// The model's directory, or a GGUF file
        #[arg(long, value_name = "PATH")]
        model: PathBuf,
    },

    /// Download a model where you trust the network, and write its hashes into the manifest
    Lock {
        /// hf://owner/name, with @revision if need be, gs://bucket/prefix, a directory or a GGUF file
        #[arg(long, value_name = "SOURCE")]
        model: ModelSource,

        /// The manifest to complete
        #[arg(long, value_name = "FILE", default_value = "models/manifest.toml")]
        manifest: PathBuf,

        /// Where the files are kept
        #[arg(long, env = "CODESEAL_MODEL_CACHE", value_name = "DIR")]
        model_cache: Option<PathBuf>,

        /// For models whose licence has to be accepted on the Hugging Face Hub
        #[arg(long, env = "HF_TOKEN", value_name = "TOKEN", hide_env_values = true)]
        hugging_face_token: Option<String>,
    },
}

/// How to serve, as typed.
#[derive(Args)]
pub(super) struct ServeArgs {
    /// Where requests are taken
    #[arg(long, env = "CODESEAL_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8080")]
    pub(super) listen: SocketAddr,

    /// Where metrics are served; keep it on loopback
    #[arg(long, env = "CODESEAL_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9090")]
    pub(super) admin_listen: SocketAddr,

    /// The model: a directory, a GGUF file, hf://owner/name[@revision] or gs://bucket/prefix
    #[arg(long, env = "CODESEAL_MODEL", value_name = "SOURCE")]
    pub(super) model: ModelSource,

    /// Where downloaded models are kept; without it, the user's cache directory
    #[arg(long, env = "CODESEAL_MODEL_CACHE", value_name = "DIR")]
    pub(super) model_cache: Option<PathBuf>,

    /// What weights are turned into while they load: none, q8_0 (half the memory of bf16) or q4k (little more than a quarter)
    #[arg(long, env = "CODESEAL_QUANTIZE", value_name = "TYPE", default_value = "none")]
    pub(super) quantize: Quantize,

    /// What the model runs on: cpu, cuda or cuda:N (in builds with CUDA), or auto: the first CUDA device where there is
    /// one, the processors elsewhere
    #[arg(long, env = "CODESEAL_DEVICE", value_name = "DEVICE", default_value = "auto")]
    pub(super) device: DeviceChoice,

    /// The Cloud KMS key that wraps DEKs: projects/P/locations/L/keyRings/R/cryptoKeys/K
    #[arg(long, env = "CODESEAL_KMS_KEY", value_name = "NAME")]
    pub(super) kms_key: KeyName,

    /// The workload identity provider:
    /// //iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/W/providers/V
    #[arg(long, env = "CODESEAL_WIP_AUDIENCE", value_name = "NAME")]
    pub(super) wip_audience: WipAudience,

    /// The service account to act as; without one, the workload identity itself must be granted the key
    #[arg(long, env = "CODESEAL_IMPERSONATE", value_name = "EMAIL")]
    pub(super) impersonate: Option<String>,

    /// The launcher's token, opened by this path each time
    #[arg(
        long,
        env = "CODESEAL_ATTESTATION_TOKEN",
        value_name = "FILE",
        default_value = "/run/container_launcher/attestation_verifier_claims_token"
    )]
    pub(super) attestation_token: PathBuf,

    /// The launcher's socket, asked when the file holds no valid token
    #[arg(
        long,
        env = "CODESEAL_ATTESTATION_SOCKET",
        value_name = "FILE",
        default_value = "/run/container_launcher/teeserver.sock"
    )]
    pub(super) attestation_socket: PathBuf,

    /// What this machine must be: shielded-preview, sev, tdx or tdx-h100; sandbox with --sandbox-endpoint
    #[arg(long, env = "CODESEAL_PROFILE", value_name = "NAME")]
    pub(super) profile: Option<Profile>,

    /// When the launcher's token has expired: ignore (stay ready), wait (not ready, but requests whose key is
    /// known are served) or exit
    #[arg(long, env = "CODESEAL_ON_TOKEN_EXPIRY", value_name = "POLICY", default_value = "wait")]
    pub(super) on_token_expiry: OnTokenExpiry,

    /// A local Confidential Space in place of Google's services; not in production builds
    #[cfg(feature = "sandbox")]
    #[arg(long, env = "CODESEAL_SANDBOX_ENDPOINT", value_name = "URL")]
    pub(super) sandbox_endpoint: Option<String>,

    /// When the frames of a stream leave: constant (on a clock, and a round number of them), bucket (as the model goes
    /// on, and a round number of them) or off. Pace and number tell those who watch the line what a text is about
    #[arg(long, env = "CODESEAL_STREAM_SHAPING", value_name = "MODE", default_value = "constant")]
    pub(super) stream_shaping: ShapingMode,

    /// Between two frames of a stream that leave on a clock, in milliseconds
    #[arg(long, env = "CODESEAL_STREAM_INTERVAL_MS", value_name = "N",
        default_value_t = Shaping::INTERVAL.as_millis() as u64, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    pub(super) stream_interval_ms: u64,

    /// New tokens of an answer, unless the request says otherwise
    #[arg(long, env = "CODESEAL_MAX_NEW_TOKENS", value_name = "N", default_value_t = DEFAULT_NEW_TOKENS,
        value_parser = up_to(MAX_STEP_TOKENS))]
    pub(super) max_new_tokens: usize,

    /// The largest request body, in bytes
    #[arg(long, env = "CODESEAL_MAX_BODY_BYTES", value_name = "N", default_value_t = 1 << 20,
        value_parser = up_to(MAX_BODY_BYTES))]
    pub(super) max_body_bytes: usize,

    /// Requests that the model works on together
    #[arg(long, env = "CODESEAL_MAX_RUNNING", value_name = "N", default_value_t = 8,
        value_parser = up_to(MAX_RUNNING))]
    pub(super) max_running: usize,

    /// Requests that wait for those; more get 429
    #[arg(long, env = "CODESEAL_MAX_WAITING", value_name = "N", default_value_t = 56,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_WAITING))]
    pub(super) max_waiting: usize,

    /// Tokens that the model reads in one step, of all requests together: more read prompts faster, fewer keep those
    /// that are being answered from waiting
    #[arg(long, env = "CODESEAL_STEP_TOKENS", value_name = "N", default_value_t = EngineConfig::STEP_TOKENS,
        value_parser = up_to(MAX_STEP_TOKENS))]
    pub(super) step_tokens: usize,

    /// Memory for keys and values, in MiB; without it, a quarter of what the machine and its control group leave, or nine
    /// tenths of what is free on a CUDA device, and no more than can be used
    #[arg(long, env = "CODESEAL_KV_CACHE_MIB", value_name = "N",
        value_parser = RangedU64ValueParser::<u64>::new().range(1..=MAX_KV_CACHE_MIB))]
    pub(super) kv_cache_mib: Option<u64>,

    /// Tokens that are guessed from the text so far and checked in one step, for each request; 0 turns that off.
    /// The answers are the same either way
    #[arg(long, env = "CODESEAL_DRAFT_TOKENS", value_name = "N", default_value_t = EngineConfig::DRAFT_TOKENS,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_DRAFT))]
    pub(super) draft_tokens: usize,

    /// Whether what was read of a prompt is kept, for later prompts under the same DEK that begin the same
    #[arg(long, env = "CODESEAL_PREFIX_CACHE", value_name = "BOOL", default_value_t = true,
        action = clap::ArgAction::Set)]
    pub(super) prefix_cache: bool,

    /// Open connections; more wait to be accepted. Fewer if the limit of open files leaves no room for so many
    #[arg(long, env = "CODESEAL_MAX_CONNECTIONS", value_name = "N", default_value_t = 512,
        value_parser = up_to(MAX_CONNECTIONS))]
    pub(super) max_connections: usize,

    /// Envelopes remembered within the replay window; more get 503
    #[arg(long, env = "CODESEAL_MAX_REPLAY_ENTRIES", value_name = "N", default_value_t = 200_000,
        value_parser = up_to(MAX_REPLAY_ENTRIES))]
    pub(super) max_replay_entries: usize,

    /// Attestation tokens made for clients; more get 429
    #[arg(long, env = "CODESEAL_MAX_ATTESTATIONS_PER_MINUTE", value_name = "N", default_value_t = 60,
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=MAX_ATTESTATIONS))]
    pub(super) max_attestations_per_minute: u32,

    /// For a request head, and for the pause between two requests of a connection
    #[arg(long, env = "CODESEAL_HEADER_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 10,
        value_parser = seconds(MAX_SECONDS))]
    pub(super) header_timeout_secs: u64,

    /// For a whole request body
    #[arg(long, env = "CODESEAL_BODY_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 10,
        value_parser = seconds(MAX_SECONDS))]
    pub(super) body_timeout_secs: u64,

    /// For the client to take what is written to it
    #[arg(long, env = "CODESEAL_WRITE_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 30,
        value_parser = seconds(MAX_SECONDS))]
    pub(super) write_timeout_secs: u64,

    /// For a whole request, waiting and generating included
    #[arg(long, env = "CODESEAL_REQUEST_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 120,
        value_parser = seconds(MAX_SECONDS))]
    pub(super) request_timeout_secs: u64,

    /// For running requests to finish after SIGTERM; at most 25, because a Spot VM is switched off at 30
    #[arg(long, env = "CODESEAL_DRAIN_SECS", value_name = "SECONDS", default_value_t = 20,
        value_parser = seconds(25))]
    pub(super) drain_secs: u64,

    /// How a line of the log looks
    #[arg(long, env = "CODESEAL_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,

    /// How much is logged; no level logs a prompt, a key or a token
    #[arg(long, env = "CODESEAL_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub(super) log_level: LogLevel,
}

fn up_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

pub(super) fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MAX_COUNT)
}

pub(super) fn seconds(most: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=most)
}
