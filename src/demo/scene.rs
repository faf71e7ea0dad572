//! The cast: a local Confidential Space, servers that run in it, and the employee's client.
//!
//! Must not touch: what is shown.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::DemoError;
use super::scratch::Scratch;
use crate::attestation::{OnTokenExpiry, Profile};
use crate::client::{Client, ClientError, Origin};
use crate::config::{Limits, Logging, ModelOrigin, ServerConfig};
use crate::engine::{EngineConfig, ModelFiles, Quantize};
use crate::keys::{CacheLimits, Endpoint, KeyName, KmsConfig, Timeouts, WrapConfig};
use crate::sandbox::{Launcher, Sandbox, SandboxConfig, claims};
use crate::server::{Service, Shaping};
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
        let mut service = Service::start(self.server_config(launcher)?).await?;
        service.ready().await?;
        Ok(service)
    }

    /// An employee with a session of her own at `service`.
    pub(super) async fn employee(&self, service: &Service) -> Result<Client, DemoError> {
        let origin: Origin = format!("http://{}", service.address()).parse().map_err(|_| MISNAMED)?;
        let keys = WrapConfig { key: self.key.clone(), endpoint: self.endpoint() };
        Ok(Client::connect(&origin, keys).await?)
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
            shaping: Shaping::Constant(Shaping::INTERVAL),
            engine: EngineConfig { kv_cache_bytes: Some(KV_CACHE_BYTES), ..EngineConfig::new(1, 1) },
            limits: Limits {
                max_new_tokens: 32,
                max_body_bytes: 1 << 20,
                max_requests: 2,
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

const MISNAMED: DemoError = DemoError::Unexpected("the sandbox names things as nobody can read them");

/// The refusal in `outcome`, which is what is expected.
pub(super) fn refusal<T>(outcome: Result<T, ClientError>) -> Result<crate::client::Refusal, DemoError> {
    match outcome {
        Ok(_) => Err(DemoError::Unexpected("the wrong workload got the key")),
        Err(ClientError::Refused(refusal)) => Ok(refusal),
        Err(other) => Err(other.into()),
    }
}
