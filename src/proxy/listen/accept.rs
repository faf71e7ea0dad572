//! The accept loop: HTTP/1.1 with bounds on connections and on the time for a head.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::peer::Peer;
use super::slots::{Activity, Slot, Slots};
use super::socket::{Bound, UnixSocket};
use crate::write_timeout::WriteTimeout;

/// Connections at the same time, over all sockets.
const MAX_CONNECTIONS: usize = 64;
/// The largest request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// For a whole request head, and for the pause between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after an accept that failed, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How long answers may go on after the end was asked for.
const DRAIN: Duration = Duration::from_secs(2);

enum Socket {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
            Self::Unix(socket) => Stream::Unix(socket.listener.accept().await?.0),
        })
    }
}

/// Which clients are accepted, and how long a write to one may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptConfig {
    /// Whether other accounts of this machine may connect.
    pub(crate) any_user: bool,
    /// Timeout for the client to receive what is written.
    pub(crate) write_timeout: Duration,
}

/// Serves all sockets with `handle` until `stop`.
pub(crate) async fn serve<H, F>(bound: Bound, config: AcceptConfig, handle: H, stop: CancellationToken)
where
    H: Fn(Request<Incoming>, Peer, Activity) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let slots = Slots::new(MAX_CONNECTIONS);
    let graceful = Arc::new(GracefulShutdown::new());
    let mut loops = JoinSet::new();
    let sockets = bound.tcp.into_iter().map(Socket::Tcp).chain(bound.unix.map(Socket::Unix));
    for socket in sockets {
        let (slots, handle, stop, graceful) =
            (slots.clone(), handle.clone(), stop.clone(), Arc::clone(&graceful));
        loops.spawn(async move { accept_all(&socket, &slots, config, &handle, &stop, &graceful).await });
    }
    let connections = loops.join_all().await;
    if let Some(graceful) = Arc::into_inner(graceful) {
        tokio::time::timeout(DRAIN, graceful.shutdown()).await.ok();
    }
    drop(connections);
}

async fn accept_all<H, F>(
    socket: &Socket,
    slots: &Slots,
    config: AcceptConfig,
    handle: &H,
    stop: &CancellationToken,
    graceful: &GracefulShutdown,
) -> JoinSet<()>
where
    H: Fn(Request<Incoming>, Peer, Activity) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return connections,
            Some(_) = connections.join_next() => continue,
            accepted = socket.accept() => accepted,
        };
        take(accepted, slots, config, handle, graceful, &mut connections).await;
    }
}

async fn take<H, F>(
    accepted: io::Result<Stream>,
    slots: &Slots,
    config: AcceptConfig,
    handle: &H,
    graceful: &GracefulShutdown,
    connections: &mut JoinSet<()>,
) where
    H: Fn(Request<Incoming>, Peer, Activity) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let Ok(stream) = accepted else {
        tokio::time::sleep(ACCEPT_RETRY).await;
        return;
    };
    // All connections are answering requests: this one is closed at once, which a client can tell from a hang.
    let Some(slot) = slots.take() else { return };
    match stream {
        Stream::Tcp(stream) => {
            // Pieces are small and each is worth sending at once; without it they are merely late.
            stream.set_nodelay(true).ok();
            let peer = Peer::of_tcp(&stream, config.any_user);
            connect(stream, (peer, config), slot, handle.clone(), graceful, connections);
        }
        Stream::Unix(stream) => {
            let peer = Peer::of_unix(&stream, config.any_user);
            connect(stream, (peer, config), slot, handle.clone(), graceful, connections);
        }
    }
}

fn connect<S, H, F>(
    stream: S,
    (peer, config): (Peer, AcceptConfig),
    slot: Slot,
    handle: H,
    graceful: &GracefulShutdown,
    connections: &mut JoinSet<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>, Peer, Activity) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let activity = slot.activity.clone();
    let service = service_fn(move |request| {
        let answer = handle(request, peer, activity.clone());
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(WriteTimeout::new(stream, config.write_timeout)), service);
    let connection = graceful.watch(connection);
    connections.spawn(async move {
        tokio::select! {
            // However a connection ends, there is no one left to tell.
            _ = connection => {}
            () = slot.close.cancelled() => {}
        }
    });
}
