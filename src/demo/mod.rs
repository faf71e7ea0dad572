//! The whole flow in one process: employee, operator, attested workload and a refused one.
//!
//! Real parts talk over real sockets on loopback; each thing that is shown is checked, and the demo fails if one
//! does not hold.
//!
//! Allowed modules: attestation, client, engine, keys, model::ModelFiles, model::Quantize, protocol, proxy,
//! sandbox, secret, server, telemetry.

mod acts;
mod operator;
mod paper;
mod proxy;
mod scene;
mod scratch;

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;

pub use self::proxy::proxy;

use self::acts::Demo;
use crate::client::ClientError;
use crate::proxy::ProxyError;
use crate::sandbox::SandboxError;
use crate::server::ServeError;
use crate::telemetry::LoggingError;

/// The demo takes a few seconds; more than this means that something hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// How the demo is run.
#[derive(Clone, Debug)]
pub struct DemoConfig {
    /// Where temporary files may be put; they are removed at the end.
    pub scratch: PathBuf,
    /// Whether the text may have colours.
    pub colour: bool,
}

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The client failed where it should not have.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nothing can be printed, or no temporary file written.
    #[error("cannot write: {0}")]
    Io(#[from] io::Error),
    /// The process has a log already.
    #[error(transparent)]
    Log(#[from] LoggingError),
    /// The sandbox does not start.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The server does not start.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The proxy does not start.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// Something hangs.
    #[error("the demo did not end within {} s", LIMIT.as_secs())]
    TimedOut,
    /// What was to be shown does not hold.
    #[error("{0}: this is a defect, please report it")]
    Unexpected(&'static str),
}

/// Plays the demo to `out`. It can be played once in a process, because it takes the log.
///
/// # Errors
/// [`DemoError`] if anything is not as it should be.
pub fn run(config: DemoConfig, out: &mut dyn Write) -> LocalBoxFuture<'_, Result<(), DemoError>> {
    Box::pin(async move {
        let demo = Demo::start(&config, out);
        let played = async { demo.await?.play().await };
        tokio::time::timeout(LIMIT, played).await.unwrap_or(Err(DemoError::TimedOut))
    })
}
