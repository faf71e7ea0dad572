//! The parts of the demo: a local Confidential Space, servers that run in it, and the employee's client.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::DemoError;
use super::scratch::Scratch;
use crate::attestation::{OnTokenExpiry, Profile};
use crate::client::{Client, ClientError, Origin, Policy};
use crate::engine::{EngineConfig, ModelFiles, Quantize};
use crate::keys::{CacheLimits, Endpoint, KeyName, KmsConfig, Timeouts, WrapConfig};
use crate::protocol::DEFAULT_NEW_TOKENS;
use crate::sandbox::{Launcher, Sandbox, SandboxConfig, claims};
use crate::server::{Logging, ModelOrigin, RequestLimits, ServerConfig, Service, Shaping};
use crate::telemetry::{LogFormat, LogLevel};

/// More than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Keys and values of one request of the demo, several times over.
const KV_CACHE_BYTES: u64 = 32 << 20;
/// What the answers call the embedded model.
const MODEL: &str = "codeseal-tiny";

/// The sandbox, with the workload that the company trusts.
pub(super) struct Scene {
    pub(super) sandbox: Sandbox,
    /// The attribute condition of the company's workload identity provider.
    pub(super) condition: String,
    key: KeyName,
    // Last: the sandbox's files are in it.
    scratch: Scratch,
}

impl Scene {
    /// Starts the sandbox, with its files in a new directory in `parent`.
    pub(super) async fn start(parent: &Path) -> Result<Self, DemoError> {
        let scratch = Scratch::new(parent)?;
        let condition = claims::codelab_condition(&claims::shielded_preview());
        let config = SandboxConfig {
            dir: scratch.path().join("good"),
            condition: Some(condition.clone()),
            claims: Some(claims::shielded_preview()),
            ..SandboxConfig::default()
        };
        let sandbox = Sandbox::start(config).await?;
        let key = sandbox.kms_key().parse().map_err(|_| MISNAMED)?;
        Ok(Self { sandbox, condition, key, scratch })
    }

    /// Launches another workload, attested with `claims`.
    pub(super) async fn launch(&self, claims: Value) -> Result<Launcher, DemoError> {
        Ok(self.sandbox.launch(claims, &self.scratch.path().join("other")).await?)
    }

    /// A server in the VM of `launcher`, ready for requests.
    pub(super) async fn serve(&self, launcher: &Launcher) -> Result<Service, DemoError> {
        start(self.server_config(launcher)?).await
    }

    /// The same for editors, which ask for more at once.
    pub(super) async fn serve_editors(&self) -> Result<Service, DemoError> {
        let mut config = self.server_config(self.sandbox.launcher())?;
        config.engine = EngineConfig { kv_cache_bytes: Some(4 * KV_CACHE_BYTES), ..EngineConfig::new(8, 56) };
        config.limits.max_connections = 128;
        config.limits.max_replay_entries = 100_000;
        config.limits.max_new_tokens = DEFAULT_NEW_TOKENS;
        start(config).await
    }

    /// What a server of this scene must be: the image that the company trusts.
    pub(super) fn policy(&self) -> Result<Policy, DemoError> {
        let claims = claims::shielded_preview();
        let digest =
            claims.pointer("/submods/container/image_digest").and_then(Value::as_str).ok_or(MISNAMED)?;
        let jwks = self.sandbox.endpoint();
        let text =
            format!("profile = 'shielded-preview'\nimage_digests = ['{digest}']\njwks = '{jwks}/jwks'\n");
        let path = self.scratch.path().join("policy.toml");
        std::fs::write(&path, text)?;
        Policy::read(&path).map_err(|_| DemoError::Unexpected("the demo's policy cannot be read"))
    }

    /// An employee's client, with a session of its own at `service`.
    pub(super) async fn employee(&self, service: &Service) -> Result<Client, DemoError> {
        let (origin, keys) = self.way_to(service)?;
        Ok(Client::connect(&origin, keys).await?)
    }

    /// Where `service` is, and how keys are wrapped for it.
    pub(super) fn way_to(&self, service: &Service) -> Result<(Origin, WrapConfig), DemoError> {
        let origin = format!("http://{}", service.address()).parse().map_err(|_| MISNAMED)?;
        Ok((origin, WrapConfig { key: self.key.clone(), endpoint: self.endpoint() }))
    }

    /// Ends the sandbox and removes its files.
    pub(super) async fn end(self) {
        self.sandbox.shutdown().await;
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::Sandbox(self.sandbox.endpoint().to_owned())
    }

    fn server_config(&self, launcher: &Launcher) -> Result<ServerConfig, DemoError> {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(ServerConfig {
            listen: any_port,
            admin_listen: any_port,
            model: ModelOrigin::Files { name: MODEL.to_owned(), files: ModelFiles::tiny() },
            quantize: Quantize::None,
            kms: KmsConfig {
                key: self.key.clone(),
                wip_audience: self.sandbox.wip_audience().parse().map_err(|_| MISNAMED)?,
                token_file: launcher.token_file().to_owned(),
                token_socket: Some(launcher.socket().to_owned()),
                impersonate: Some(self.sandbox.service_account().parse().map_err(|_| MISNAMED)?),
                endpoint: self.endpoint(),
                timeouts: Timeouts::default(),
                cache: CacheLimits::default(),
            },
            profile: Profile::Sandbox,
            on_token_expiry: OnTokenExpiry::Wait,
            shaping: Shaping::PaceAndLength(Shaping::INTERVAL),
            engine: EngineConfig { kv_cache_bytes: Some(KV_CACHE_BYTES), ..EngineConfig::new(1, 1) },
            limits: RequestLimits {
                max_new_tokens: 32,
                max_body_bytes: 1 << 20,
                max_connections: 16,
                max_replay_entries: 1000,
                max_attestations_per_minute: 60,
                header_timeout: PATIENCE,
                body_timeout: PATIENCE,
                write_timeout: PATIENCE,
                request_timeout: PATIENCE,
            },
            drain_limit: Duration::from_secs(2),
            watch_interval: Duration::from_secs(10),
            logging: Logging { format: LogFormat::Text, level: LogLevel::Info },
        })
    }
}

async fn start(config: ServerConfig) -> Result<Service, DemoError> {
    let mut service = Service::start(config).await?;
    service.ready().await?;
    Ok(service)
}

const MISNAMED: DemoError = DemoError::Unexpected("the sandbox uses names that cannot be parsed");

/// The refusal in `outcome`, which is what is expected.
pub(super) fn refusal<T>(outcome: Result<T, ClientError>) -> Result<crate::client::Refusal, DemoError> {
    match outcome {
        Ok(_) => Err(DemoError::Unexpected("the wrong workload got the key")),
        Err(ClientError::Refused(refusal)) => Ok(refusal),
        Err(other) => Err(other.into()),
    }
}
