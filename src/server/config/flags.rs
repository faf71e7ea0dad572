//! The flags of serving, as typed. Each doc comment is the manual.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use crate::attestation::{OnTokenExpiry, Profile};
use crate::engine::{BackendChoice, DeviceChoice, EngineConfig};
use crate::flags::{seconds, up_to};
use crate::hub::ModelSource;
use crate::keys::{KeyName, WipAudience};
use crate::model::Quantize;
use crate::protocol::DEFAULT_NEW_TOKENS;
use crate::server::answer::shaping::{Shaping, ShapingMode};
use crate::telemetry::{LogFormat, LogLevel};

/// Larger batches speed up no model.
const MAX_RUNNING: u64 = 4096;
/// A longer queue only adds latency.
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
/// Longer drafts are rarely accepted.
const MAX_DRAFT: u64 = 32;
/// The launcher makes tokens one after the other.
const MAX_ATTESTATIONS: u64 = 6000;
/// A day.
const MAX_SECONDS: u64 = 86_400;

/// How to serve, as typed.
#[derive(Args)]
pub(crate) struct ServeArgs {
    /// Address of the public listener
    #[arg(
        long,
        help_heading = "Listeners",
        env = "CODESEAL_LISTEN",
        value_name = "ADDR",
        default_value = "0.0.0.0:8080"
    )]
    pub(super) listen: SocketAddr,

    /// Address of the admin listener (metrics, health); keep it on loopback
    #[arg(
        long,
        help_heading = "Listeners",
        env = "CODESEAL_ADMIN_LISTEN",
        value_name = "ADDR",
        default_value = "127.0.0.1:9090"
    )]
    pub(super) admin_listen: SocketAddr,

    /// Model to serve: a directory, a GGUF file, hf://owner/name[@revision] or gs://bucket/prefix
    #[arg(long, help_heading = "Model", env = "CODESEAL_MODEL", value_name = "SOURCE")]
    pub(super) model: ModelSource,

    /// Directory for downloaded models; default: the user's cache directory
    #[arg(long, help_heading = "Model", env = "CODESEAL_MODEL_CACHE", value_name = "DIR")]
    pub(super) model_cache: Option<PathBuf>,

    /// Quantize weights at load time: none, q8_0 (half the memory of bf16) or q4k (slightly more than a quarter)
    #[arg(
        long,
        help_heading = "Model",
        env = "CODESEAL_QUANTIZE",
        value_name = "TYPE",
        default_value = "none"
    )]
    pub(super) quantize: Quantize,

    /// Device that runs the model: cpu, cuda, cuda:N (builds with CUDA), or auto: the first CUDA device if there is one,
    /// else the CPU
    #[arg(
        long,
        help_heading = "Model",
        env = "CODESEAL_DEVICE",
        value_name = "DEVICE",
        default_value = "auto"
    )]
    pub(super) device: DeviceChoice,

    /// Implementation of the model: kernels (of this program), candle (in builds with candle or CUDA), or auto: kernels, which on a
    /// CUDA device must first give the same logits as candle on the model's first layers, else candle
    #[arg(
        long,
        help_heading = "Model",
        env = "CODESEAL_BACKEND",
        value_name = "BACKEND",
        default_value = "auto"
    )]
    pub(super) backend: BackendChoice,

    /// Cloud KMS key that wraps DEKs: projects/P/locations/L/keyRings/R/cryptoKeys/K
    #[arg(long, help_heading = "Keys", env = "CODESEAL_KMS_KEY", value_name = "NAME")]
    pub(super) kms_key: KeyName,

    /// Workload identity provider:
    /// //iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/W/providers/V
    #[arg(long, help_heading = "Keys", env = "CODESEAL_WIP_AUDIENCE", value_name = "NAME")]
    pub(super) wip_audience: WipAudience,

    /// Service account to impersonate; without it, the workload identity itself needs access to the key
    #[arg(long, help_heading = "Keys", env = "CODESEAL_IMPERSONATE", value_name = "EMAIL")]
    pub(super) impersonate: Option<String>,

    /// Path of the launcher's attestation token; the file is opened for each use
    #[arg(
        long,
        help_heading = "Attestation",
        env = "CODESEAL_ATTESTATION_TOKEN",
        value_name = "FILE",
        default_value = "/run/container_launcher/attestation_verifier_claims_token"
    )]
    pub(super) attestation_token: PathBuf,

    /// Path of the launcher's socket, used when the file holds no valid token
    #[arg(
        long,
        help_heading = "Attestation",
        env = "CODESEAL_ATTESTATION_SOCKET",
        value_name = "FILE",
        default_value = "/run/container_launcher/teeserver.sock"
    )]
    pub(super) attestation_socket: PathBuf,

    /// Profile that this machine's attestation must satisfy: shielded-preview, sev, tdx or tdx-h100; sandbox with
    /// --sandbox-endpoint
    #[arg(long, help_heading = "Attestation", env = "CODESEAL_PROFILE", value_name = "NAME")]
    pub(super) profile: Option<Profile>,

    /// Behavior when the attestation token has expired: ignore (stay ready), wait (not ready; requests whose DEK is cached
    /// are served) or exit
    #[arg(
        long,
        help_heading = "Attestation",
        env = "CODESEAL_ON_TOKEN_EXPIRY",
        value_name = "POLICY",
        default_value = "wait"
    )]
    pub(super) on_token_expiry: OnTokenExpiry,

    /// URL of a local Confidential Space to use in place of Google's services; not in production builds
    #[cfg(feature = "sandbox")]
    #[arg(long, help_heading = "Keys", env = "CODESEAL_SANDBOX_ENDPOINT", value_name = "URL")]
    pub(super) sandbox_endpoint: Option<String>,

    /// Traffic shaping of answers, by what it hides from a network observer: pace-and-length (frames leave at random times within
    /// fixed intervals, their number and the time of whole answers follow from max_tokens) or off
    #[arg(
        long,
        help_heading = "Traffic shaping",
        env = "CODESEAL_STREAM_SHAPING",
        value_name = "MODE",
        default_value = "pace-and-length"
    )]
    pub(super) stream_shaping: ShapingMode,

    /// Interval within which one frame leaves with pace-and-length, in milliseconds
    #[arg(long, help_heading = "Traffic shaping", env = "CODESEAL_STREAM_INTERVAL_MS", value_name = "N",
        default_value_t = Shaping::INTERVAL.as_millis() as u64, value_parser = RangedU64ValueParser::<u64>::new().range(1..=1000))]
    pub(super) stream_interval_ms: u64,

    /// Default maximum of new tokens per answer
    #[arg(long, help_heading = "Engine", env = "CODESEAL_MAX_NEW_TOKENS", value_name = "N", default_value_t = DEFAULT_NEW_TOKENS,
        value_parser = up_to(MAX_STEP_TOKENS))]
    pub(super) max_new_tokens: usize,

    /// Maximum size of a request body, in bytes
    #[arg(long, help_heading = "Limits", env = "CODESEAL_MAX_BODY_BYTES", value_name = "N", default_value_t = 1 << 20,
        value_parser = up_to(MAX_BODY_BYTES))]
    pub(super) max_body_bytes: usize,

    /// Maximum batch size
    #[arg(long, help_heading = "Engine", env = "CODESEAL_MAX_RUNNING", value_name = "N", default_value_t = 8,
        value_parser = up_to(MAX_RUNNING))]
    pub(super) max_running: usize,

    /// Queue length; beyond it 429
    #[arg(long, help_heading = "Engine", env = "CODESEAL_MAX_WAITING", value_name = "N", default_value_t = 56,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_WAITING))]
    pub(super) max_waiting: usize,

    /// Token budget per step, over the whole batch: more speeds up prefill, fewer keeps decode latency low
    #[arg(long, help_heading = "Engine", env = "CODESEAL_STEP_TOKENS", value_name = "N", default_value_t = EngineConfig::STEP_TOKENS,
        value_parser = up_to(MAX_STEP_TOKENS))]
    pub(super) step_tokens: usize,

    /// KV cache size, in MiB; default: a quarter of the memory that the machine and its cgroup leave, or nine tenths of
    /// the free memory of a CUDA device, and at most what the batch can use
    #[arg(long, help_heading = "Engine", env = "CODESEAL_KV_CACHE_MIB", value_name = "N",
        value_parser = RangedU64ValueParser::<u64>::new().range(1..=MAX_KV_CACHE_MIB))]
    pub(super) kv_cache_mib: Option<u64>,

    /// Draft tokens for speculative decoding (prompt lookup); 0 disables it. Answers do not depend on it
    #[arg(long, help_heading = "Engine", env = "CODESEAL_DRAFT_TOKENS", value_name = "N", default_value_t = EngineConfig::DRAFT_TOKENS,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_DRAFT))]
    pub(super) draft_tokens: usize,

    /// Prefix cache: keep the KV blocks of prompts for later prompts under the same DEK that begin alike
    #[arg(long, help_heading = "Engine", env = "CODESEAL_PREFIX_CACHE", value_name = "BOOL", default_value_t = true,
        action = clap::ArgAction::Set)]
    pub(super) prefix_cache: bool,

    /// Maximum open connections; more wait to be accepted. Lowered if the limit of open files is too small
    #[arg(long, help_heading = "Limits", env = "CODESEAL_MAX_CONNECTIONS", value_name = "N", default_value_t = 512,
        value_parser = up_to(MAX_CONNECTIONS))]
    pub(super) max_connections: usize,

    /// Maximum envelopes remembered within the replay window; beyond it 503
    #[arg(long, help_heading = "Limits", env = "CODESEAL_MAX_REPLAY_ENTRIES", value_name = "N", default_value_t = 200_000,
        value_parser = up_to(MAX_REPLAY_ENTRIES))]
    pub(super) max_replay_entries: usize,

    /// Maximum attestation tokens made for clients per minute; beyond it 429
    #[arg(long, help_heading = "Limits", env = "CODESEAL_MAX_ATTESTATIONS_PER_MINUTE", value_name = "N", default_value_t = 60,
        value_parser = RangedU64ValueParser::<u32>::new().range(1..=MAX_ATTESTATIONS))]
    pub(super) max_attestations_per_minute: u32,

    /// Timeout for a request head, and for idle connections
    #[arg(long, help_heading = "Limits", env = "CODESEAL_HEADER_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 10,
        value_parser = seconds(MAX_SECONDS))]
    pub(super) header_timeout_secs: u64,

    /// Timeout for a request body
    #[arg(long, help_heading = "Limits", env = "CODESEAL_BODY_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 10,
        value_parser = seconds(MAX_SECONDS))]
    pub(super) body_timeout_secs: u64,

    /// Timeout for the client to receive what is written
    #[arg(long, help_heading = "Limits", env = "CODESEAL_WRITE_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 30,
        value_parser = seconds(MAX_SECONDS))]
    pub(super) write_timeout_secs: u64,

    /// Timeout for a whole request, queueing and generation included
    #[arg(long, help_heading = "Limits", env = "CODESEAL_REQUEST_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 120,
        value_parser = seconds(MAX_SECONDS))]
    pub(super) request_timeout_secs: u64,

    /// Time for running requests to finish after SIGTERM; at most 25, because a Spot VM is stopped after 30
    #[arg(long, help_heading = "Limits", env = "CODESEAL_DRAIN_SECS", value_name = "SECONDS", default_value_t = 20,
        value_parser = seconds(25))]
    pub(super) drain_secs: u64,

    /// Log format
    #[arg(
        long,
        help_heading = "Logging",
        env = "CODESEAL_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub(super) log_format: LogFormat,

    /// Log level; no level logs a prompt, a key or a token
    #[arg(
        long,
        help_heading = "Logging",
        env = "CODESEAL_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info"
    )]
    pub(super) log_level: LogLevel,
}
