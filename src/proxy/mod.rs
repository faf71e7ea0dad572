//! `codeseal proxy`: a completion server on loopback that every editor can use, and that seals what they send.
//!
//! It speaks the APIs that editors use, and seals every request for an attested workload.
//!
//! Allowed modules: client, keys, protocol, secret, telemetry, write_timeout.
//! Forbidden: codeseal_kernels, fernet, google_cloud_*.

mod answer;
mod config;
mod context;
mod cover;
mod dialect;
mod error;
mod gathered;
mod golden;
mod keystrokes;
mod ledger;
mod link;
mod listen;
mod notify;
mod page;
mod serve;
mod server_api;
mod tools;
mod verdicts;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

#[cfg(all(feature = "server", feature = "sandbox"))]
pub use self::config::DemoListen;
pub use self::config::{ContextSource, ProxyArgs, ProxyConfig, ProxyTask};
pub use self::context::{NoRepository, Repository};
pub use self::cover::Rhythm;
pub use self::golden::{BadAnswer, BadGolden, Golden};
pub use self::link::Timing;
pub use self::listen::{AccessToken, Inherited, ListenError, TokenError};
#[doc(hidden)]
pub use self::serve::{Relayed, relay};
pub use self::tools::{BlockError, Editor, Tool, ToolError, ToolReport, Unit};
pub use self::verdicts::LogError;

use self::cover::Cover;
use self::keystrokes::{Running, Windows};
use self::ledger::Ledger;
use self::link::{Fleet, State, Terms, Upstream};
use self::listen::{AcceptConfig, Guard, Unbound};
use self::serve::{Core, Speculation};
use self::verdicts::Verdicts;
use crate::client::{ClientError, Link, Verifier};

/// A proxy that runs. Dropping it ends it at once.
#[derive(Debug)]
pub struct Proxy {
    addresses: Vec<SocketAddr>,
    socket: Option<PathBuf>,
    core: Arc<Core>,
    stop: CancellationToken,
    serving: AbortOnDropHandle<()>,
    _keepers: JoinSet<()>,
}

/// Why the proxy cannot start. That no server is there is no reason.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The log of verdicts cannot be used.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What `codeseal proxy` does: serves until `stopped`, and prints to `out` where, and what came of the first look at
/// the server.
///
/// # Errors
/// [`ProxyError`] if it cannot start.
pub async fn run(
    config: ProxyConfig,
    out: &mut dyn Write,
    stopped: impl Future<Output = ()>,
) -> Result<(), ProxyError> {
    let manager = config.notify.clone();
    let proxy = Proxy::start(config).await?;
    if let Some(manager) = &manager {
        notify::notify(manager, "READY=1");
    }
    // That no one reads this is no reason to end.
    for address in proxy.addresses() {
        writeln!(out, "codeseal proxy: http://{address}/ (base URL for OpenAI clients: http://{address}/v1)")
            .ok();
    }
    if let Some(socket) = proxy.socket() {
        writeln!(out, "codeseal proxy: Unix socket {}", socket.display()).ok();
    }
    let looked = async {
        proxy.tried().await;
        match proxy.readiness() {
            Ok(ready) => writeln!(out, "{ready}").ok(),
            Err(why) => writeln!(out, "{why}; tried again in the background").ok(),
        };
        writeln!(out, "next: codeseal proxy status").ok();
        out.flush().ok();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = looked => {}
        () = stopped => {}
    }
    proxy.shutdown().await;
    Ok(())
}

impl Proxy {
    /// Listens, and begins to look for the servers in the background.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub fn start(config: ProxyConfig) -> BoxFuture<'static, Result<Self, ProxyError>> {
        Box::pin(Self::begin(config))
    }

    async fn begin(config: ProxyConfig) -> Result<Self, ProxyError> {
        let verdicts = Arc::new(match config.verdict_log {
            Some(path) => Verdicts::open(path)?,
            None => Verdicts::default(),
        });
        let terms =
            Terms { timing: config.timing, golden: config.golden, pin_first: config.pin_first, verdicts };
        let mut servers = Vec::new();
        for origin in &config.servers {
            let verifier = config.policy.clone().map(Verifier::new);
            let link = Link::new(origin, config.keys.clone(), verifier)?;
            servers.push(Arc::new(Upstream::new(link, origin.to_string(), terms.clone())));
        }
        let unbound = Unbound {
            addresses: &config.listen,
            optional: &config.listen_if_possible,
            socket: config.socket.as_deref(),
            inherited: config.inherited,
        };
        let limits = AcceptConfig { any_user: config.any_user, write_timeout: config.write_timeout };
        let bound = listen::bind(unbound).await?;
        let addresses = bound.tcp.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        let socket = bound.unix.as_ref().map(|socket| socket.path().to_owned());
        let mut keepers = JoinSet::new();
        for server in &servers {
            let server = Arc::clone(server);
            keepers.spawn(async move { server.keep().await });
        }
        let core = Arc::new(Core {
            fleet: Fleet::new(servers),
            guard: Guard { allowed_origins: config.allowed_origins, token: config.token },
            ledger: Arc::new(Ledger::default()),
            windows: Windows::default(),
            running: Running::new(config.debounce),
            speculation: Speculation::new(config.speculate),
            cover: config.cover.map(|rhythm| Arc::new(Cover::new(rhythm))),
            layout: config.layout,
            repository: config.repository.map(Arc::new),
            timeout: config.timeout,
            whole_below: config.whole_below,
            policy: config.policy_name,
            started: link::now(),
        });
        if let Some(cover) = core.cover.clone() {
            let core = Arc::clone(&core);
            keepers.spawn(async move { cover.run(&core.fleet).await });
        }
        let stop = CancellationToken::new();
        let shared = Arc::clone(&core);
        let handle = move |request, peer, activity| Arc::clone(&shared).answer(request, peer, activity);
        let serving = tokio::spawn(listen::serve(bound, limits, handle, stop.clone()));
        Ok(Self {
            addresses,
            socket,
            core,
            stop,
            serving: AbortOnDropHandle::new(serving),
            _keepers: keepers,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The Unix socket that it listens on, if there is one.
    pub fn socket(&self) -> Option<&std::path::Path> {
        self.socket.as_deref()
    }

    /// Whether requests are answered now, and if not, why not, in one sentence.
    ///
    /// # Errors
    /// The sentence.
    pub fn readiness(&self) -> Result<String, String> {
        match self.core.fleet.pick() {
            Ok((server, warm)) => {
                let how = if warm.held.verdict().is_some() {
                    "verified"
                } else {
                    "connected, not verified (no policy)"
                };
                Ok(format!("{how}: {}, model {}", server.address, warm.model))
            }
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// Waits until each server has been tried once.
    pub async fn tried(&self) {
        for server in self.core.fleet.servers() {
            server.until(|state| !matches!(state, State::Starting)).await;
        }
    }

    /// Waits until requests are answered.
    pub async fn ready(&self) {
        let ready = self
            .core
            .fleet
            .servers()
            .iter()
            .map(|server| Box::pin(server.until(|state| matches!(state, State::Ready(_)))));
        futures_util::future::select_all(ready).await;
    }

    /// Lets requests that are being answered finish, for a moment, and ends.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.serving.await.ok();
    }
}
