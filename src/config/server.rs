//! The flags of `codeseal-server` → validated [`ServerConfig`].
//!
//! Must not touch: network, GPU.

mod bench;
mod eval;
mod flags;
#[cfg(feature = "client")]
mod loadtest;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use self::eval::EvalCommand;
pub use self::flags::{ModelsCommand, ServerArgs};
use self::flags::{ServeArgs, ServerCommand};
use crate::attestation::{OnTokenExpiry, Profile};
use crate::bench::{BenchConfig, CheckConfig};
use crate::engine::EngineConfig;
use crate::eval::FimConfig;
use crate::hub::ModelSource;
use crate::keys::{CacheLimits, Endpoint, InvalidName, KmsConfig, Timeouts};
#[cfg(feature = "client")]
use crate::loadtest::LoadtestConfig;
use crate::model::{ModelFiles, Quantize};
use crate::server::Shaping;
use crate::telemetry::{LogFormat, LogLevel};

/// The most that the bodies of all connections may come to.
const MAX_BODIES_BYTES: usize = 64 << 30;
/// Often enough for a load balancer, seldom enough for the launcher's socket, which attests anew each time.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// What `codeseal-server` is to do.
pub enum Action {
    /// Measure how fast a model is.
    Bench(BenchConfig),
    /// Check a CUDA device.
    KernelsCheck(CheckConfig),
    /// Serve.
    Serve(Box<ServerConfig>),
    /// Measure how a model fills holes.
    EvalFim(FimConfig),
    /// Put load on a running server.
    #[cfg(feature = "client")]
    Loadtest(Box<LoadtestConfig>),
    /// Look after the manifest.
    Models(ModelsCommand),
}

/// How to serve: everything resolved and checked.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Where metrics are served.
    pub admin_listen: SocketAddr,
    /// Where the model comes from.
    pub model: ModelOrigin,
    /// What its weights are turned into while they load.
    pub quantize: Quantize,
    /// Where keys come from.
    pub kms: KmsConfig,
    /// What this machine must be.
    pub profile: Profile,
    /// What to do without a valid attestation token.
    pub on_token_expiry: OnTokenExpiry,
    /// How the frames of a stream leave.
    pub shaping: Shaping,
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
    /// Tokens that strangers may have the launcher make.
    pub max_attestations_per_minute: u32,
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
    /// All connections can bring a body at the same time.
    #[error("--max-body-bytes times --max-connections is more than 64 GiB: lower one of them")]
    Bodies,
    /// There is neither a cache directory nor a home.
    #[error("there is no home directory to keep models in: name one with --model-cache")]
    NoModelCache,
    /// A production server must know what it stands on.
    #[error("name the kind of machine with --profile: shielded-preview, sev, tdx or tdx-h100")]
    NoProfile,
    /// The service account is none.
    #[error(transparent)]
    ServiceAccount(#[from] InvalidName),
    /// Whoever answers there is given the sessions' keys in the clear.
    #[cfg(all(feature = "client", feature = "sandbox"))]
    #[error("--sandbox-endpoint must be an http:// address of this machine")]
    SandboxElsewhere,
    /// The sandbox proves nothing, so a production server must not accept it.
    #[error("the profile sandbox is for --sandbox-endpoint alone")]
    SandboxMismatch,
    /// A part is longer than the whole.
    #[cfg(feature = "client")]
    #[error("--shared-prefix is longer than the prompt: lower it, or raise --prompt-tokens")]
    SharedPrefix,
}

impl ServerArgs {
    /// What to do, checked.
    ///
    /// # Errors
    /// [`ConfigError`] for flags that do not go together.
    pub fn resolve(self) -> Result<Action, ConfigError> {
        match (self.command, self.serve) {
            (Some(ServerCommand::Bench(args)), _) => Ok(Action::Bench(args.resolve())),
            (Some(ServerCommand::KernelsCheck(args)), _) => Ok(Action::KernelsCheck(args.resolve())),
            (Some(ServerCommand::Eval(EvalCommand::Fim(args))), _) => Ok(Action::EvalFim(args.resolve())),
            #[cfg(feature = "client")]
            (Some(ServerCommand::Loadtest(args)), _) => args.resolve().map(Box::new).map(Action::Loadtest),
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
        if self.max_body_bytes.saturating_mul(self.max_connections) > MAX_BODIES_BYTES {
            return Err(ConfigError::Bodies);
        }
        let limits = Limits {
            max_new_tokens: self.max_new_tokens,
            max_body_bytes: self.max_body_bytes,
            max_requests: self.max_running + self.max_waiting,
            max_connections: self.max_connections,
            max_replay_entries: self.max_replay_entries,
            max_attestations_per_minute: self.max_attestations_per_minute,
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
            model: ModelOrigin::Fetched {
                cache: cache_for(&self.model, self.model_cache)?,
                source: self.model,
            },
            quantize: self.quantize,
            kms,
            profile,
            on_token_expiry: self.on_token_expiry,
            shaping: self.stream_shaping.with_interval(Duration::from_millis(self.stream_interval_ms)),
            engine: EngineConfig {
                step_tokens: self.step_tokens,
                kv_cache_bytes: self.kv_cache_mib.map(|mib| mib << 20),
                draft_tokens: self.draft_tokens,
                prefix_cache: self.prefix_cache,
                device: self.device,
                ..EngineConfig::new(self.max_running, self.max_waiting)
            },
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

/// Where `source` is kept: a model in a directory is read where it is, and needs neither a cache nor a home.
///
/// # Errors
/// A model has to be downloaded, and neither a cache directory nor a home is named.
pub fn cache_for(source: &ModelSource, named: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    match source {
        ModelSource::Directory(_) => Ok(named.unwrap_or_default()),
        ModelSource::HuggingFace { .. } | ModelSource::Bucket { .. } => model_cache(named),
    }
}

/// The directory named, or else one in the user's cache directory.
///
/// # Errors
/// There is neither a cache directory nor a home.
fn model_cache(named: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("codeseal")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/codeseal")))
        .ok_or(ConfigError::NoModelCache)
}

fn is_sandbox(endpoint: &Endpoint) -> bool {
    !matches!(endpoint, Endpoint::Google)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::super::typed;
    use super::*;
    use crate::engine::Quantize;

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
        let args = typed::<ServerArgs>(REQUIRED.iter().chain(more)).unwrap();
        args.resolve().map(|action| match action {
            Action::Serve(config) => *config,
            _ => panic!("no subcommand was named"),
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
            ["--quantize", "q2"],
            ["--device", "gpu"],
            ["--device", "cuda:x"],
            ["--log-level", "warn"],
            ["--kv-cache-mib", "0"],
            ["--kv-cache-mib", "18446744073709551615"],
            ["--kv-cache-mib", "16777217"],
            ["--max-running", "1000000"],
            ["--max-waiting", "268435456"],
            ["--step-tokens", "268435456"],
            ["--max-new-tokens", "268435456"],
            ["--max-body-bytes", "268435456"],
            ["--max-connections", "268435456"],
            ["--max-replay-entries", "268435456"],
        ] {
            assert!(typed::<ServerArgs>(REQUIRED.iter().chain(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bodies_of_all_connections_together_are_bounded() {
        let most = ["--max-body-bytes", "67108864", "--profile", "tdx", "--max-connections"];
        assert!(resolve(&[&most[..], &["1024"]].concat()).is_ok());
        assert_eq!(resolve(&[&most[..], &["1025"]].concat()).unwrap_err(), ConfigError::Bodies);
    }

    #[test]
    fn a_directory_needs_no_cache() {
        let cache = cache_for(&"models/tiny".parse().unwrap(), None).unwrap();
        assert_eq!(cache, PathBuf::new());
        let source = "hf://google/codegemma-2b".parse().unwrap();
        assert_eq!(cache_for(&source, Some("/cache".into())).unwrap(), PathBuf::from("/cache"));
    }

    #[test]
    fn locking_a_model_needs_none_of_the_flags_of_serving() {
        let args = ["codeseal-server", "models", "lock", "--model", "hf://google/codegemma-2b"];
        let args = typed::<ServerArgs>(args).unwrap();
        assert!(matches!(args.resolve().unwrap(), Action::Models(ModelsCommand::Lock { .. })));
    }

    #[test]
    fn measuring_a_model_needs_none_of_the_flags_of_serving() {
        let args =
            ["codeseal-server", "eval", "fim", "--model", "models/tiny", "--cases", "c", "--quantize", "q4k"];
        let args = typed::<ServerArgs>(args).unwrap();
        let Action::EvalFim(config) = args.resolve().unwrap() else { panic!("another subcommand was named") };
        assert_eq!((config.model_name.as_str(), config.quantize), ("tiny", Quantize::Q4K));
    }
}
