//! A whole server: started, ready, drained.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::BoxFuture;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::failure::ServeError;
use super::startup;
use super::watch::watch;
use super::{attestor, self_check};
use crate::engine::{self, Engine, Open};
use crate::server::config::ServerConfig;
use crate::server::http::accept::{self, ConnectionLimits};
use crate::server::http::{descriptors, router};
use crate::server::state::App;
use crate::telemetry::{self, Event};

/// Connections that wait to be accepted. TcpListener::bind has 128, and of a larger burst each connection waits a second or
/// more, until the client repeats its SYN.
const BACKLOG: u32 = 1024;
/// What a drain leaves at the least for answers to reach their clients.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// An operator's request is short: a connection of the admin listener that idles must not keep others out for long.
const ADMIN_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for the model thread at the end.
const LAST_STEP: Duration = Duration::from_secs(1);

/// A server on its two listeners. Dropping it cuts all connections; [`Service::shutdown`] drains first.
#[derive(Debug)]
pub struct Service {
    app: Arc<App>,
    address: SocketAddr,
    admin_address: SocketAddr,
    drain_limit: Duration,
    stop: CancellationToken,
    public: AbortOnDropHandle<()>,
    admin: AbortOnDropHandle<()>,
    loading: Loading,
    watch: AbortOnDropHandle<ServeError>,
}

enum Loading {
    Running(AbortOnDropHandle<Result<Engine, ServeError>>),
    Done(Engine),
    Failed,
}

/// Serves until `shutdown`, then drains.
///
/// # Errors
/// The server cannot start, or cannot go on.
pub async fn run(config: ServerConfig, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
    tokio::pin!(shutdown);
    let service = tokio::select! {
        () = &mut shutdown => return Ok(()),
        service = Service::start(config) => service?,
    };
    service.run_until(shutdown).await
}

impl Service {
    /// Checks what this machine is, opens the ports, and begins to load the model. Until that is done, requests are
    /// answered with 503 `starting`.
    ///
    /// # Errors
    /// This machine does not fit the profile, or an address cannot be listened on.
    pub async fn start(config: ServerConfig) -> Result<Self, ServeError> {
        Self::start_with(config, engine::open).await
    }

    /// As [`Service::start`], with an engine that `open` makes of the model's files: one on a device that this program
    /// does not know itself.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub fn start_with(config: ServerConfig, open: Open) -> BoxFuture<'static, Result<Self, ServeError>> {
        Box::pin(Self::begin(config, open))
    }

    async fn begin(config: ServerConfig, open: Open) -> Result<Self, ServeError> {
        let tokens = self_check::token_source(&config.kms);
        self_check::check(&tokens, config.profile)
            .await
            .map_err(|error| self_check::named(error, &config.kms))?;
        let (listener, address) = listen(config.listen, "--listen").await?;
        let (admin_listener, admin_address) = listen(config.admin_listen, "--admin-listen").await?;

        let launcher = self_check::launcher(&config.kms, attestor::TIMEOUT);
        let app = App::new(
            config.limits,
            config.engine.capacity(),
            config.on_token_expiry,
            config.shaping,
            launcher,
        )
        .map_err(ServeError::State)?;
        let stop = CancellationToken::new();
        let limits = ConnectionLimits {
            connections: descriptors::public_connections(config.limits.max_connections),
            header_timeout: config.limits.header_timeout,
            write_timeout: config.limits.write_timeout,
        };
        let admin_limits = ConnectionLimits {
            connections: descriptors::ADMIN_CONNECTIONS,
            header_timeout: limits.header_timeout.min(ADMIN_HEADER_TIMEOUT),
            ..limits
        };
        let serve = |listener, router: Router, limits| {
            let serving = accept::serve(listener, router, Arc::clone(&app), limits, stop.clone());
            AbortOnDropHandle::new(tokio::spawn(serving))
        };
        let watching = watch(Arc::clone(&app), tokens, config.on_token_expiry, config.watch_interval);
        Ok(Self {
            public: serve(listener, router::public(Arc::clone(&app)), limits),
            admin: serve(admin_listener, router::admin(Arc::clone(&app)), admin_limits),
            watch: AbortOnDropHandle::new(tokio::spawn(watching)),
            drain_limit: config.drain_limit,
            loading: Loading::Running(AbortOnDropHandle::new(tokio::spawn(startup::load(
                Arc::clone(&app),
                config,
                open,
            )))),
            app,
            address,
            admin_address,
            stop,
        })
    }

    /// Where requests are taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Waits until the model is loaded. Cancellation-safe.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub async fn ready(&mut self) -> Result<(), ServeError> {
        let Loading::Running(loading) = &mut self.loading else { return Ok(()) };
        match loading.await.map_err(|_| ServeError::Panicked).flatten() {
            Ok(engine) => {
                self.loading = Loading::Done(engine);
                telemetry::emit(Event::Ready { listen: self.address, admin_listen: self.admin_address });
                Ok(())
            }
            Err(error) => {
                self.loading = Loading::Failed;
                Err(error)
            }
        }
    }

    /// Serves until `shutdown`, or until it cannot go on, then drains.
    ///
    /// # Errors
    /// The model cannot be loaded, or the server cannot go on.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let outcome = tokio::select! {
            () = shutdown => Ok(()),
            error = self.serve() => Err(error),
        };
        self.shutdown().await;
        outcome
    }

    /// Refuses new requests, lets those that run finish within the drain limit, and cuts off the rest.
    pub async fn shutdown(self) {
        let deadline = Instant::now() + self.drain_limit;
        self.app.set_draining();
        let limit_secs = self.drain_limit.as_secs();
        telemetry::emit(Event::Draining { running: self.app.running(), limit_secs });
        // The port stays open meanwhile: a client that comes now is told to try elsewhere.
        let idle = tokio::time::timeout_at(deadline, self.app.idle()).await;
        let cancelled = if idle.is_ok() { 0 } else { self.app.running() };
        self.stop.cancel();
        let last_writes = deadline.max(Instant::now() + LAST_WRITES);
        for listener in [self.public, self.admin] {
            // Past its time it is dropped, and its connections with it.
            tokio::time::timeout_at(last_writes, listener).await.ok();
        }
        if let Loading::Done(engine) = self.loading {
            // A thread that panicked has said so already; one in the middle of a long step ends with the process.
            let ended = tokio::task::spawn_blocking(move || engine.shutdown().ok());
            tokio::time::timeout(LAST_STEP, ended).await.ok();
        }
        self.app.unauthenticated.report();
        telemetry::emit(Event::Drained { cancelled });
    }

    /// Gets ready, and returns only if the server cannot go on.
    async fn serve(&mut self) -> ServeError {
        if let Err(error) = self.ready().await {
            return error;
        }
        (&mut self.watch).await.unwrap_or(ServeError::Panicked)
    }
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running(_) => "Running",
            Self::Done(_) => "Done",
            Self::Failed => "Failed",
        })
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<(TcpListener, SocketAddr), ServeError> {
    let error = |source| ServeError::Listen { flag, source };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(error)?;
    // As TcpListener::bind: a server that restarts gets its port back.
    socket.set_reuseaddr(true).map_err(error)?;
    socket.bind(address).map_err(error)?;
    let listener = socket.listen(BACKLOG).map_err(error)?;
    let address = listener.local_addr().map_err(error)?;
    Ok((listener, address))
}
