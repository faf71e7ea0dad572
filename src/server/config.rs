//! The flags of serving → validated [`ServerConfig`].

mod flags;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use self::flags::ServeArgs;
use super::answer::shaping::Shaping;
use crate::attestation::{OnTokenExpiry, Profile};
use crate::engine::{EngineConfig, ModelFiles, Quantize};
use crate::hub::{ModelSource, NoModelCache, cache_for};
use crate::keys::{CacheLimits, Endpoint, InvalidName, KmsConfig, Timeouts};
use crate::telemetry::{LogFormat, LogLevel};

/// The most that the bodies of all connections may come to.
const MAX_BODIES_BYTES: usize = 64 << 30;
/// Often enough for a load balancer, seldom enough for the launcher's socket, which attests for each call.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// How to serve: everything resolved and checked.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where requests are taken.
    pub listen: SocketAddr,
    /// Where metrics are served.
    pub admin_listen: SocketAddr,
    /// Where the model comes from.
    pub model: ModelOrigin,
    /// Quantization at load time.
    pub quantize: Quantize,
    /// Where keys come from.
    pub kms: KmsConfig,
    /// What this machine must be.
    pub profile: Profile,
    /// What to do without a valid attestation token.
    pub on_token_expiry: OnTokenExpiry,
    /// Traffic shaping.
    pub shaping: Shaping,
    /// Limits of the engine.
    pub engine: EngineConfig,
    /// Bounds on requests.
    pub limits: RequestLimits,
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
    /// In place: nothing is fetched.
    Files {
        /// What it is called in answers.
        name: String,
        /// Its files.
        files: ModelFiles,
    },
}

/// Bounds on what clients may ask for and how long they may take.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// New tokens of an answer, unless the request says otherwise.
    pub max_new_tokens: usize,
    /// The largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Open connections.
    pub max_connections: usize,
    /// Envelopes remembered within the replay window.
    pub max_replay_entries: usize,
    /// Attestation tokens that are made for clients, per minute.
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
pub enum ServerConfigError {
    /// All connections can bring a body at the same time.
    #[error("--max-body-bytes times --max-connections is more than 64 GiB: lower one of them")]
    Bodies,
    /// A model has to be downloaded, and there is no directory for it.
    #[error(transparent)]
    NoModelCache(#[from] NoModelCache),
    /// A production server needs a profile to check itself against.
    #[error("name the kind of machine with --profile: shielded-preview, sev, tdx or tdx-h100")]
    NoProfile,
    /// The service account's name is malformed.
    #[error(transparent)]
    ServiceAccount(#[from] InvalidName),
    /// The sandbox proves nothing, so a production server must not accept it.
    #[error("the profile sandbox is for --sandbox-endpoint alone")]
    SandboxMismatch,
}

impl ServeArgs {
    /// Checks everything; downloads go to `user_cache` unless a flag says otherwise.
    ///
    /// # Errors
    /// [`ServerConfigError`] for flags that exclude each other.
    pub(crate) fn resolve(self, user_cache: Option<PathBuf>) -> Result<ServerConfig, ServerConfigError> {
        let endpoint = self.endpoint();
        let profile = match (self.profile, is_sandbox(&endpoint)) {
            (Some(Profile::Sandbox), false) => return Err(ServerConfigError::SandboxMismatch),
            // The sandbox plays any kind of machine.
            (Some(profile), _) => profile,
            (None, true) => Profile::Sandbox,
            (None, false) => return Err(ServerConfigError::NoProfile),
        };
        if self.max_body_bytes.saturating_mul(self.max_connections) > MAX_BODIES_BYTES {
            return Err(ServerConfigError::Bodies);
        }
        let limits = RequestLimits {
            max_new_tokens: self.max_new_tokens,
            max_body_bytes: self.max_body_bytes,
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
                cache: cache_for(&self.model, self.model_cache, user_cache)?,
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
                backend: self.backend,
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

fn is_sandbox(endpoint: &Endpoint) -> bool {
    !matches!(endpoint, Endpoint::Google)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::typed_args;

    const REQUIRED: [&str; 6] = [
        "--model",
        "models/tiny",
        "--kms-key",
        "projects/p/locations/global/keyRings/r/cryptoKeys/k",
        "--wip-audience",
        "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/w/providers/v",
    ];

    fn resolve(more: &[&str]) -> Result<ServerConfig, ServerConfigError> {
        typed_args::<ServeArgs>(REQUIRED.iter().chain(more)).unwrap().resolve(None)
    }

    #[test]
    fn a_production_server_needs_a_profile() {
        assert_eq!(resolve(&[]).unwrap_err(), ServerConfigError::NoProfile);
        assert_eq!(resolve(&["--profile", "tdx"]).unwrap().profile, Profile::Tdx);
        assert_eq!(resolve(&["--profile", "sandbox"]).unwrap_err(), ServerConfigError::SandboxMismatch);
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
            ["--backend", "torch"],
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
            assert!(typed_args::<ServeArgs>(REQUIRED.iter().chain(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bodies_of_all_connections_together_are_bounded() {
        let most = ["--max-body-bytes", "67108864", "--profile", "tdx", "--max-connections"];
        assert!(resolve(&[&most[..], &["1024"]].concat()).is_ok());
        assert_eq!(resolve(&[&most[..], &["1025"]].concat()).unwrap_err(), ServerConfigError::Bodies);
    }
}
