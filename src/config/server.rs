//! The command line of `codeseal-server` → validated [`ServerConfig`].
//!
//! Must not touch: network, GPU.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

use crate::attestation::{OnTokenExpiry, Profile};
use crate::engine::EngineConfig;
use crate::hub::ModelSource;
use crate::keys::{CacheLimits, Endpoint, InvalidName, KeyName, KmsConfig, Timeouts, WipAudience};
use crate::model::ModelFiles;
use crate::protocol::DEFAULT_NEW_TOKENS;
use crate::telemetry::{LogFormat, LogLevel};

const EXIT_CODES: &str = "\
Exit codes:
  0   stopped by a signal, with every request that was running answered
  64  wrong usage or configuration
  70  internal failure
  75  stopped because the attestation token expired (--on-token-expiry exit)
  78  this machine's attestation does not fit --profile; no port was opened

On Confidential Space, configuration belongs into the image, where it is measured: leave
tee.launch_policy.allow_env_override empty and allow_cmd_override false.";

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
    command: Option<ServerCommand>,

    #[command(flatten)]
    serve: Option<ServeArgs>,
}

/// What `codeseal-server` is to do.
pub enum Action {
    /// Serve.
    Serve(Box<ServerConfig>),
    /// Look after the manifest.
    Models(ModelsCommand),
}

/// What `codeseal-server` does besides serving.
#[derive(Subcommand)]
enum ServerCommand {
    /// Look after models/manifest.toml
    #[command(subcommand)]
    Models(ModelsCommand),
}

/// What can be done with the manifest. No `Debug`: a token may be among it.
#[derive(Subcommand)]
pub enum ModelsCommand {
    /// Download a model where you trust the network, and write its hashes into the manifest
    Lock {
        /// hf://owner/name[@revision] or gs://bucket/prefix
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
struct ServeArgs {
    /// Where requests are taken
    #[arg(long, env = "CODESEAL_LISTEN", value_name = "ADDR", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// Where metrics are served; keep it on loopback
    #[arg(long, env = "CODESEAL_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9090")]
    admin_listen: SocketAddr,

    /// The model: a directory, hf://owner/name[@revision] or gs://bucket/prefix
    #[arg(long, env = "CODESEAL_MODEL", value_name = "SOURCE")]
    model: ModelSource,

    /// Where downloaded models are kept; without it, the user's cache directory
    #[arg(long, env = "CODESEAL_MODEL_CACHE", value_name = "DIR")]
    model_cache: Option<PathBuf>,

    /// The Cloud KMS key that wraps DEKs: projects/P/locations/L/keyRings/R/cryptoKeys/K
    #[arg(long, env = "CODESEAL_KMS_KEY", value_name = "NAME")]
    kms_key: KeyName,

    /// The workload identity provider:
    /// //iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/W/providers/V
    #[arg(long, env = "CODESEAL_WIP_AUDIENCE", value_name = "NAME")]
    wip_audience: WipAudience,

    /// The service account to act as; without one, the workload identity itself must be granted the key
    #[arg(long, env = "CODESEAL_IMPERSONATE", value_name = "EMAIL")]
    impersonate: Option<String>,

    /// The launcher's token, opened by this path each time
    #[arg(
        long,
        env = "CODESEAL_ATTESTATION_TOKEN",
        value_name = "FILE",
        default_value = "/run/container_launcher/attestation_verifier_claims_token"
    )]
    attestation_token: PathBuf,

    /// The launcher's socket, asked when the file holds no valid token
    #[arg(
        long,
        env = "CODESEAL_ATTESTATION_SOCKET",
        value_name = "FILE",
        default_value = "/run/container_launcher/teeserver.sock"
    )]
    attestation_socket: PathBuf,

    /// What this machine must be: shielded-preview, sev, tdx or tdx-h100; sandbox with --sandbox-endpoint
    #[arg(long, env = "CODESEAL_PROFILE", value_name = "NAME")]
    profile: Option<Profile>,

    /// When the launcher's token has expired: ignore (stay ready), wait (not ready, but requests whose key is
    /// known are served) or exit
    #[arg(long, env = "CODESEAL_ON_TOKEN_EXPIRY", value_name = "POLICY", default_value = "wait")]
    on_token_expiry: OnTokenExpiry,

    /// A local Confidential Space in place of Google's services; not in production builds
    #[cfg(feature = "sandbox")]
    #[arg(long, env = "CODESEAL_SANDBOX_ENDPOINT", value_name = "URL")]
    sandbox_endpoint: Option<String>,

    /// New tokens of an answer, unless the request says otherwise
    #[arg(long, env = "CODESEAL_MAX_NEW_TOKENS", value_name = "N", default_value_t = DEFAULT_NEW_TOKENS,
        value_parser = at_least_one())]
    max_new_tokens: usize,

    /// The largest request body, in bytes
    #[arg(long, env = "CODESEAL_MAX_BODY_BYTES", value_name = "N", default_value_t = 1 << 20,
        value_parser = at_least_one())]
    max_body_bytes: usize,

    /// Requests that the model works on in turn
    #[arg(long, env = "CODESEAL_MAX_RUNNING", value_name = "N", default_value_t = 8,
        value_parser = at_least_one())]
    max_running: usize,

    /// Requests that wait for those; more get 429
    #[arg(long, env = "CODESEAL_MAX_WAITING", value_name = "N", default_value_t = 56,
        value_parser = RangedU64ValueParser::<usize>::new().range(0..=MAX_COUNT))]
    max_waiting: usize,

    /// Open connections; more wait to be accepted
    #[arg(long, env = "CODESEAL_MAX_CONNECTIONS", value_name = "N", default_value_t = 512,
        value_parser = at_least_one())]
    max_connections: usize,

    /// Envelopes remembered within the replay window; more get 503
    #[arg(long, env = "CODESEAL_MAX_REPLAY_ENTRIES", value_name = "N", default_value_t = 200_000,
        value_parser = at_least_one())]
    max_replay_entries: usize,

    /// For a request head, and for the pause between two requests of a connection
    #[arg(long, env = "CODESEAL_HEADER_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 10,
        value_parser = seconds(MAX_SECONDS))]
    header_timeout_secs: u64,

    /// For a whole request body
    #[arg(long, env = "CODESEAL_BODY_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 10,
        value_parser = seconds(MAX_SECONDS))]
    body_timeout_secs: u64,

    /// For the client to take what is written to it
    #[arg(long, env = "CODESEAL_WRITE_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 30,
        value_parser = seconds(MAX_SECONDS))]
    write_timeout_secs: u64,

    /// For a whole request, waiting and generating included
    #[arg(long, env = "CODESEAL_REQUEST_TIMEOUT_SECS", value_name = "SECONDS", default_value_t = 120,
        value_parser = seconds(MAX_SECONDS))]
    request_timeout_secs: u64,

    /// For running requests to finish after SIGTERM; at most 25, because a Spot VM is switched off at 30
    #[arg(long, env = "CODESEAL_DRAIN_SECS", value_name = "SECONDS", default_value_t = 20,
        value_parser = seconds(25))]
    drain_secs: u64,

    /// How a line of the log looks
    #[arg(long, env = "CODESEAL_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,

    /// How much is logged; no level logs a prompt, a key or a token
    #[arg(long, env = "CODESEAL_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LogLevel,
}

/// No count needs to be larger: a permit is counted in 29 bits on the smallest machines.
const MAX_COUNT: u64 = 1 << 28;
/// Often enough for a load balancer, seldom enough for the launcher's socket, which attests anew each time.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// A day.
const MAX_SECONDS: u64 = 86_400;

/// How to serve: everything resolved and checked.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Where metrics are served.
    pub admin_listen: SocketAddr,
    /// Where the model comes from.
    pub model: ModelOrigin,
    /// Where keys come from.
    pub kms: KmsConfig,
    /// What this machine must be.
    pub profile: Profile,
    /// What to do without a valid attestation token.
    pub on_token_expiry: OnTokenExpiry,
    /// How much the engine takes on.
    pub engine: EngineConfig,
    /// Bounds on requests.
    pub limits: Limits,
    /// How long running requests are given at the end.
    pub drain_limit: Duration,
    /// How often the attestation token and the key service are looked at.
    pub watch_interval: Duration,
    /// The log.
    pub logging: Logging,
}

/// Where the model comes from.
#[derive(Clone, Debug)]
pub enum ModelOrigin {
    /// Fetched if need be, and held against the manifest.
    Fetched {
        /// From where.
        source: ModelSource,
        /// Where downloads are kept.
        cache: PathBuf,
    },
    /// At hand already.
    Files {
        /// What it is called in answers.
        name: String,
        /// Its files.
        files: ModelFiles,
    },
}

/// Bounds on what clients may ask for and how long they may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// New tokens of an answer, unless the request says otherwise.
    pub max_new_tokens: usize,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Requests that are admitted at the same time.
    pub max_requests: usize,
    /// Open connections.
    pub max_connections: usize,
    /// Envelopes remembered within the replay window.
    pub max_replay_entries: usize,
    /// For a request head.
    pub header_timeout: Duration,
    /// For a request body.
    pub body_timeout: Duration,
    /// For the client to take what is written.
    pub write_timeout: Duration,
    /// For a whole request.
    pub request_timeout: Duration,
}

/// How the log looks.
#[derive(Clone, Copy, Debug)]
pub struct Logging {
    /// Text or JSON.
    pub format: LogFormat,
    /// How much.
    pub level: LogLevel,
}

/// Flags that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is neither a cache directory nor a home.
    #[error("there is no home directory to keep models in: name one with --model-cache")]
    NoModelCache,
    /// A production server must know what it stands on.
    #[error("name the kind of machine with --profile: shielded-preview, sev, tdx or tdx-h100")]
    NoProfile,
    /// The service account is none.
    #[error(transparent)]
    ServiceAccount(#[from] InvalidName),
    /// The sandbox proves nothing, so a production server must not accept it.
    #[error("the profile sandbox is for --sandbox-endpoint alone")]
    SandboxMismatch,
}

impl ServerArgs {
    /// What to do, checked.
    ///
    /// # Errors
    /// [`ConfigError`] for flags that do not go together.
    pub fn resolve(self) -> Result<Action, ConfigError> {
        match (self.command, self.serve) {
            (Some(ServerCommand::Models(command)), _) => Ok(Action::Models(command)),
            (None, Some(serve)) => serve.resolve().map(Box::new).map(Action::Serve),
            // clap has refused this already: the flags of serving are required without a subcommand.
            (None, None) => Err(ConfigError::NoProfile),
        }
    }
}

impl ServeArgs {
    fn resolve(self) -> Result<ServerConfig, ConfigError> {
        let endpoint = self.endpoint();
        let profile = match (self.profile, is_sandbox(&endpoint)) {
            (Some(Profile::Sandbox), false) => return Err(ConfigError::SandboxMismatch),
            // The sandbox plays any kind of machine.
            (Some(profile), _) => profile,
            (None, true) => Profile::Sandbox,
            (None, false) => return Err(ConfigError::NoProfile),
        };
        let limits = Limits {
            max_new_tokens: self.max_new_tokens,
            max_body_bytes: self.max_body_bytes,
            max_requests: self.max_running + self.max_waiting,
            max_connections: self.max_connections,
            max_replay_entries: self.max_replay_entries,
            header_timeout: Duration::from_secs(self.header_timeout_secs),
            body_timeout: Duration::from_secs(self.body_timeout_secs),
            write_timeout: Duration::from_secs(self.write_timeout_secs),
            request_timeout: Duration::from_secs(self.request_timeout_secs),
        };
        let impersonate = self.impersonate.filter(|email| !email.is_empty());
        let kms = KmsConfig {
            key: self.kms_key,
            wip_audience: self.wip_audience,
            token_file: self.attestation_token,
            token_socket: Some(self.attestation_socket),
            impersonate: impersonate.map(|email| email.parse()).transpose()?,
            endpoint,
            timeouts: Timeouts::default(),
            cache: CacheLimits::default(),
        };
        Ok(ServerConfig {
            listen: self.listen,
            admin_listen: self.admin_listen,
            model: ModelOrigin::Fetched { source: self.model, cache: model_cache(self.model_cache)? },
            kms,
            profile,
            on_token_expiry: self.on_token_expiry,
            engine: EngineConfig { max_running: self.max_running, max_waiting: self.max_waiting },
            limits,
            drain_limit: Duration::from_secs(self.drain_secs),
            watch_interval: WATCH_INTERVAL,
            logging: Logging { format: self.log_format, level: self.log_level },
        })
    }

    #[cfg(feature = "sandbox")]
    fn endpoint(&self) -> Endpoint {
        let sandbox = self.sandbox_endpoint.as_ref().filter(|url| !url.is_empty());
        sandbox.map_or(Endpoint::Google, |url| Endpoint::Sandbox(url.clone()))
    }

    #[cfg(not(feature = "sandbox"))]
    fn endpoint(&self) -> Endpoint {
        Endpoint::Google
    }
}

/// The directory named, or else one in the user's cache directory.
///
/// # Errors
/// There is neither a cache directory nor a home.
pub fn model_cache(named: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("codeseal")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/codeseal")))
        .ok_or(ConfigError::NoModelCache)
}

fn is_sandbox(endpoint: &Endpoint) -> bool {
    !matches!(endpoint, Endpoint::Google)
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=MAX_COUNT)
}

fn seconds(most: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=most)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    const REQUIRED: [&str; 7] = [
        "codeseal-server",
        "--model",
        "models/tiny",
        "--kms-key",
        "projects/p/locations/global/keyRings/r/cryptoKeys/k",
        "--wip-audience",
        "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/w/providers/v",
    ];

    fn resolve(more: &[&str]) -> Result<ServerConfig, ConfigError> {
        let args = ServerArgs::try_parse_from(REQUIRED.iter().chain(more)).unwrap();
        args.resolve().map(|action| match action {
            Action::Serve(config) => *config,
            Action::Models(_) => panic!("no subcommand was named"),
        })
    }

    #[test]
    fn the_command_line_is_sound() {
        ServerArgs::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_name() {
        for arg in ServerArgs::command().get_arguments().filter(|arg| arg.get_long() != Some("help")) {
            let flag = arg.get_long().unwrap().replace('-', "_").to_uppercase();
            if flag != "VERSION" {
                assert_eq!(arg.get_env().unwrap().to_str().unwrap(), format!("CODESEAL_{flag}"));
            }
        }
    }

    #[test]
    fn a_production_server_must_know_what_it_stands_on() {
        assert_eq!(resolve(&[]).unwrap_err(), ConfigError::NoProfile);
        assert_eq!(resolve(&["--profile", "tdx"]).unwrap().profile, Profile::Tdx);
        assert_eq!(resolve(&["--profile", "sandbox"]).unwrap_err(), ConfigError::SandboxMismatch);
    }

    #[test]
    #[cfg(feature = "sandbox")]
    fn the_profile_of_a_sandbox_is_its_own_unless_it_plays_another() {
        let sandbox = ["--sandbox-endpoint", "http://127.0.0.1:1"];
        assert_eq!(resolve(&sandbox).unwrap().profile, Profile::Sandbox);
        let tdx = ["--sandbox-endpoint", "http://127.0.0.1:1", "--profile", "tdx"];
        assert_eq!(resolve(&tdx).unwrap().profile, Profile::Tdx);
    }

    #[test]
    fn out_of_range_values_are_refused() {
        for bad in [
            ["--drain-secs", "26"],
            ["--drain-secs", "0"],
            ["--max-running", "0"],
            ["--max-body-bytes", "0"],
            ["--kms-key", "k"],
            ["--profile", "sgx"],
            ["--log-level", "warn"],
        ] {
            assert!(ServerArgs::try_parse_from(REQUIRED.iter().chain(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn locking_a_model_needs_none_of_the_flags_of_serving() {
        let args = ["codeseal-server", "models", "lock", "--model", "hf://google/codegemma-2b"];
        let args = ServerArgs::try_parse_from(args).unwrap();
        assert!(matches!(args.resolve().unwrap(), Action::Models(ModelsCommand::Lock { .. })));
    }
}
