//! The accept loop: HTTP/1.1 and HTTP/2 without TLS on one listener, ended at once when asked.
//!
//! Unlike a graceful shutdown this also ends requests that hang, which is what some faults are for.

use std::future::Future;

use axum::Router;
use axum::serve::Listener;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Further connections wait until one ends.
const MAX_CONNECTIONS: usize = 1024;

/// Spawns what HTTP/2 needs, and ends it with the server.
#[derive(Clone)]
struct Executor(CancellationToken);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        let stop = self.0.clone();
        tokio::spawn(stop.run_until_cancelled_owned(future));
    }
}

/// Serves `router` on `listener` until `stop`.
pub(super) async fn serve(mut listener: impl Listener, router: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (io, _) = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let mut builder = Builder::new(Executor(stop.clone()));
                builder.http1().timer(TokioTimer::new());
                let service = TowerToHyperService::new(router.clone());
                // A connection that fails is the caller's to notice.
                connections.spawn(async move {
                    builder.serve_connection(TokioIo::new(io), service).await.is_ok()
                });
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    connections.shutdown().await;
}
