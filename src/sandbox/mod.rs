//! A local Confidential Space: launcher, issuer, STS, IAM and KMS on loopback, with faults on demand.
//!
//! One port serves all of Google's interfaces over HTTP/1.1 and HTTP/2 without TLS; the launcher's directory holds
//! the token file and the socket. Nothing outlives the process: keys and tokens are in memory.
//!
//! Allowed modules: attestation, policy, protocol, secret.

pub mod claims;
mod control;
mod faults;
mod iam;
mod issuer;
mod kms;
mod launcher;
mod ledger;
mod pki;
mod router;
mod serve;
mod socket;
mod status;
mod sts;
mod tokens;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::control::Control;
pub use self::faults::{Active, Fault, Faults};
use self::faults::{Struck, Target};
pub use self::issuer::Issuer;
use self::kms::Kms;
pub use self::kms::{KeyVersion, VersionChange, VersionState};
pub use self::launcher::{Build, Launcher, SOCKET, TOKEN_FILE};
pub use self::ledger::{Counts, Exchange, Ledger, Tally, Verdict};
pub use self::tokens::Principal;
use self::tokens::Tokens;
use crate::policy::{Condition, ConditionError};
use crate::secret::Secret;

/// The name of the key unless configured otherwise.
pub const DEFAULT_KMS_KEY: &str = "projects/acme-primus/locations/global/keyRings/codeseal/cryptoKeys/dek";

const WIP_AUDIENCE: &str = "//iam.googleapis.com/projects/210987654321/locations/global/workloadIdentityPools/\
                            trusted-workloads/providers/attestation-verifier";

const SERVICE_ACCOUNT: &str = "dek-unwrapper@acme-primus.iam.gserviceaccount.com";

/// What a sandbox is made of.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// Where Google's interfaces are served; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The launcher's directory; it is made if it is not there. A socket's path has at most 107 bytes.
    pub dir: PathBuf,
    /// The attribute condition in CEL; `None` is the codelab's for [`claims::shielded_preview`].
    pub condition: Option<String>,
    /// The claims of the workload; `None` is [`claims::shielded_preview`].
    pub claims: Option<Value>,
    /// How long an attestation token lives, in whole seconds.
    pub token_lifetime: Duration,
    /// How long an access token lives, in whole seconds.
    pub access_token_lifetime: Duration,
    /// The full name of the key.
    pub kms_key: String,
    /// Which launcher is played.
    pub launcher: Build,
}

/// Why a sandbox cannot start, or cannot do what was requested.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The port is taken, or not ours to take.
    #[error("the sandbox cannot listen there: choose another --listen address")]
    Listen(#[source] io::Error),
    /// The launcher's directory cannot be written.
    #[error("the launcher's directory cannot be written: choose another --dir")]
    Directory(#[source] io::Error),
    /// The socket cannot be made.
    #[error("the launcher's socket cannot be made: choose a --dir with a short path on a local file system")]
    Socket(#[source] io::Error),
    /// The attribute condition is no good.
    #[error(transparent)]
    Condition(#[from] ConditionError),
    /// The claims are no JSON object.
    #[error("the claims must be a JSON object")]
    Claims,
    /// A key has no such version, or its state does not allow the change.
    #[error("{0}")]
    Version(String),
    /// The OS random number generator failed, or a key could not be used.
    #[error("a key could not be made or used: check that the OS random number generator works")]
    Key,
}

/// A running sandbox; dropping it ends it, [`Sandbox::shutdown`] also waits for that.
pub struct Sandbox {
    shared: Arc<Shared>,
    launcher: Arc<Launcher>,
    endpoint: String,
    kms_key: String,
    token_lifetime: Duration,
    server: JoinHandle<()>,
    stop: DropGuard,
}

/// What the services share.
struct Shared {
    issuer: Issuer,
    condition: Condition,
    tokens: Tokens,
    kms: Kms,
    faults: Faults,
    ledger: Ledger,
    wip_audience: String,
    service_account: String,
    access_token_lifetime: Duration,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            dir: PathBuf::from("codeseal-sandbox"),
            condition: None,
            claims: None,
            token_lifetime: Duration::from_secs(3600),
            access_token_lifetime: Duration::from_secs(3600),
            kms_key: DEFAULT_KMS_KEY.to_owned(),
            launcher: Build::default(),
        }
    }
}

impl SandboxConfig {
    /// The default with its launcher in `dir`.
    pub fn for_tests(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), ..Self::default() }
    }
}

impl Sandbox {
    /// Starts everything; when this returns, the token file is there and all is served.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn start(config: SandboxConfig) -> BoxFuture<'static, Result<Self, SandboxError>> {
        Box::pin(Self::begin(config))
    }

    async fn begin(config: SandboxConfig) -> Result<Self, SandboxError> {
        let condition = match &config.condition {
            Some(condition) => condition.clone(),
            None => claims::codelab_condition(&claims::shielded_preview()),
        };
        let claims = config.claims.unwrap_or_else(claims::shielded_preview);
        if !claims.is_object() {
            return Err(SandboxError::Claims);
        }
        let shared = Arc::new(Shared {
            issuer: Issuer::new()?,
            condition: Condition::parse(&condition)?,
            tokens: Tokens::default(),
            kms: Kms::new(),
            faults: Faults::new(),
            ledger: Ledger::new(),
            wip_audience: WIP_AUDIENCE.to_owned(),
            service_account: SERVICE_ACCOUNT.to_owned(),
            access_token_lifetime: config.access_token_lifetime,
        });
        shared.kms.add_key(&config.kms_key)?;
        let listener = TcpListener::bind(config.listen).await.map_err(SandboxError::Listen)?;
        let address = listener.local_addr().map_err(SandboxError::Listen)?;
        let launcher = Launcher::start(
            Arc::clone(&shared),
            claims,
            &config.dir,
            config.token_lifetime,
            config.launcher,
            socket::router,
        );
        let launcher = Arc::new(launcher.await?);
        let control = Control {
            shared: Arc::clone(&shared),
            launcher: Arc::clone(&launcher),
            kms_key: config.kms_key.clone(),
        };
        let router = router::router(Arc::clone(&shared)).merge(control::router(Arc::new(control)));
        let stop = CancellationToken::new();
        // An answer whose end waits for an acknowledgement costs the caller 40 ms.
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap_or_default());
        let server = tokio::spawn(serve::serve(listener, router, stop.clone()));
        Ok(Self {
            shared,
            launcher,
            endpoint: format!("http://{address}"),
            kms_key: config.kms_key,
            token_lifetime: config.token_lifetime,
            server,
            stop: stop.drop_guard(),
        })
    }

    /// The base address of Google's interfaces, as `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The full name of the key.
    pub fn kms_key(&self) -> &str {
        &self.kms_key
    }

    /// The workload's token file.
    pub fn token_file(&self) -> &Path {
        self.launcher.token_file()
    }

    /// The workload's launcher socket.
    pub fn socket(&self) -> &Path {
        self.launcher.socket()
    }

    /// The audience of a token exchange: the full name of the workload identity provider.
    pub fn wip_audience(&self) -> &str {
        &self.shared.wip_audience
    }

    /// The service account that an attested workload may act as.
    pub fn service_account(&self) -> &str {
        &self.shared.service_account
    }

    /// What goes wrong on demand.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// The launcher of the workload that the sandbox was started with.
    pub fn launcher(&self) -> &Launcher {
        &self.launcher
    }

    /// What was asked and decided.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// The attestation verifier, for tokens that no launcher would make.
    pub fn issuer(&self) -> &Issuer {
        &self.shared.issuer
    }

    /// Makes another key; one that is there already stays as it is.
    ///
    /// # Errors
    /// [`SandboxError::Key`].
    pub fn add_key(&self, name: &str) -> Result<(), SandboxError> {
        self.shared.kms.add_key(name)
    }

    /// Makes a new version of a key the primary one; DEKs of older versions can still be unwrapped.
    ///
    /// # Errors
    /// [`SandboxError::Version`].
    pub fn rotate_key(&self, name: &str) -> Result<KeyVersion, SandboxError> {
        self.shared.kms.rotate(name).map_err(|status| SandboxError::Version(status.message))
    }

    /// Enables, disables, destroys or restores a version of a key: the primary one, unless its number is given.
    ///
    /// # Errors
    /// [`SandboxError::Version`] if there is no such version, or its state does not allow it.
    pub fn change_version(
        &self,
        name: &str,
        number: Option<u32>,
        change: VersionChange,
    ) -> Result<KeyVersion, SandboxError> {
        let changed = self.shared.kms.change(name, number, change);
        changed.map_err(|status| SandboxError::Version(status.message))
    }

    /// An access token of an employee: it may encrypt, and nothing else.
    ///
    /// # Errors
    /// [`SandboxError::Key`].
    pub fn employee_token(&self) -> Result<Secret<String>, SandboxError> {
        let lifetime = self.shared.access_token_lifetime;
        self.shared.tokens.issue(Principal::Employee, lifetime).map_err(|_| SandboxError::Key)
    }

    /// Makes every access token that was given out worthless.
    pub fn revoke_access_tokens(&self) {
        self.shared.tokens.revoke_all();
    }

    /// Launches another workload with `claims`, in a directory of its own.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub async fn launch(&self, claims: Value, dir: &Path) -> Result<Launcher, SandboxError> {
        if !claims.is_object() {
            return Err(SandboxError::Claims);
        }
        let build = self.launcher.build();
        let shared = Arc::clone(&self.shared);
        Launcher::start(shared, claims, dir, self.token_lifetime, build, socket::router).await
    }

    /// What a script needs to know: the one line of `codeseal sandbox`.
    pub fn describe(&self) -> Value {
        json!({
            "endpoint": self.endpoint(),
            "kms_key": self.kms_key(),
            "token_file": self.token_file(),
            "socket": self.socket(),
            "wip_audience": self.wip_audience(),
            "service_account": self.service_account(),
            "jwks": format!("{}/jwks", self.endpoint()),
            "pki_root": format!("{}/attestation-pki-root.pem", self.endpoint()),
        })
    }

    /// Ends everything at once, requests that hang included, and waits for it. The files stay.
    pub async fn shutdown(self) {
        drop(self.stop);
        // A task that panicked has been reported by the runtime.
        self.server.await.unwrap_or_default();
        self.launcher.end().await;
    }
}

impl Shared {
    /// Strikes a request with the faults for `target` and notes it.
    async fn strike(&self, target: Target) -> Struck {
        self.faults.strike(target, || self.ledger.count(|counts| counts.faults += 1)).await
    }
}
