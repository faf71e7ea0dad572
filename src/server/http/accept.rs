//! The accept loop: HTTP/1.1 with a bound on connections, on the time for a header and on the time for a write.
//!
//! axum's own loop has no such bounds.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::framing::RawHead;
use super::socket::{Handover, Socket};
use crate::protocol::ErrorCode;
use crate::server::state::App;
use crate::telemetry::{Endpoint, RequestOutcome};
use crate::write_timeout::WriteTimeout;

/// The largest request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The wait after an accept that failed for a reason of this process, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionLimits {
    /// Open at the same time; more wait in the kernel's backlog.
    pub(crate) connections: usize,
    /// For a whole request head, and for the pause between two requests.
    pub(crate) header_timeout: Duration,
    /// For the client to take what is written.
    pub(crate) write_timeout: Duration,
}

/// Serves `router` until `stop`, then lets every connection finish the answer that it is in.
///
/// Dropping the future cuts the connections that are left.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    app: Arc<App>,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (stream, slot) = match accepted {
            Ok(accepted) => accepted,
            // The client has gone before it was accepted: the next one need not wait for that.
            Err(error) if is_the_clients(&error) => continue,
            Err(_) => {
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // TCP_NODELAY: frames are small, and must not wait for acknowledgements. Without it they are only late.
        stream.set_nodelay(true).ok();
        let exchange = Arc::new(Handover::default());
        let socket = Socket::new(stream, Arc::clone(&exchange));
        let handler = TowerToHyperService::new(router.clone());
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(MAX_HEAD_BYTES)
            // A client may finish sending before it has its answer. `Socket` notices one that leaves.
            .half_close(true)
            .serve_connection(
                TokioIo::new(WriteTimeout::new(socket, limits.write_timeout)),
                hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                    let head = exchange.begin();
                    request.extensions_mut().insert(RawHead(head.into()));
                    let (answer, exchange) = (handler.call(request), Arc::clone(&exchange));
                    async move {
                        let answer = answer.await;
                        exchange.finish();
                        answer
                    }
                }),
            );
        let connection = graceful.watch(connection);
        let app = Arc::clone(&app);
        connections.spawn(async move {
            // An error has no recipient: the connection has ended.
            if connection.await.is_err_and(|error| error.is_parse()) {
                // hyper has answered with 400, 414 or 431.
                let refused = RequestOutcome::Failed(ErrorCode::InvalidRequest);
                app.metrics.request_finished(Endpoint::Other, refused, Duration::ZERO);
            }
            drop(slot);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

/// Whether an accept failed because of the connection that was to be accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
