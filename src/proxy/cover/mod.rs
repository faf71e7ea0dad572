//! Cover traffic: while the user types, sealed requests leave at a fixed rhythm, whatever editors send in between.
//!
//! An editor's request waits for the next beat, so that the times of requests show no keystrokes; one that a newer key replaces before
//! never leaves. A beat without a request sends an empty one, which a network observer cannot tell from others: it goes to the same path, falls
//! into the same bucket, and its answer has as many frames. A request that has left is never cancelled: its stream is read to
//! the last frame, even if its editor has left.

mod args;
mod beats;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub(super) use self::args::CoverArgs;
pub use self::beats::Rhythm;
use self::beats::{Beat, Beats, Waits};
use super::dialect::{Options, Task, Turn};
use super::link::{Fleet, Upstream, Warm};
use super::server_api::Request;
use crate::client::{ClientError, StreamReply};
use crate::protocol::DEFAULT_NEW_TOKENS;
use crate::protocol::openai::Role;
use crate::secret::Secret;

/// Streams that are open at the same time; a beat beyond them sends nothing. A stream lasts up to 256 frames of the server.
const MAX_OPEN: usize = 64;
/// How long the first frame of an answer may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// Empty requests in a row that must fail for the server to count as lost: one may meet a connection that the server has just closed.
const FAILURES: usize = 2;
/// What an empty request asks to continue.
const EMPTY_PROMPT: &str = "x";

/// The rhythm, and what leaves with it.
#[derive(Debug)]
pub(super) struct Cover {
    beats: Beats<Waiting>,
    shape: Mutex<Shape>,
    open: Arc<Semaphore>,
    /// Empty requests so far.
    empty: AtomicU64,
    /// Empty requests in a row that have failed.
    failures: AtomicUsize,
}

/// What the network sees of a request and its answer: as far as possible the same for all.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// The path of the last request.
    path: &'static str,
    /// The number of tokens that the number of frames is derived from: the most of any request so far.
    tokens: usize,
}

/// A request that waits for its beat.
#[derive(Debug)]
enum Waiting {
    /// One whose answer is a stream.
    Stream(Departing),
    /// One that the waiting task sends.
    Turn(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Departing {
    server: Arc<Upstream>,
    warm: Arc<Warm>,
    path: &'static str,
    body: Secret<String>,
    reply: oneshot::Sender<Result<StreamReply, ClientError>>,
}

impl Waits for Waiting {
    fn is_abandoned(&self) -> bool {
        match self {
            Self::Stream(Departing { reply, .. }) => reply.is_closed(),
            Self::Turn(reply) => reply.is_closed(),
        }
    }
}

impl Cover {
    /// Silent until the first request.
    pub(super) fn new(rhythm: Rhythm) -> Self {
        Self {
            beats: Beats::new(rhythm),
            shape: Mutex::new(Shape { path: "/v1/completions", tokens: 0 }),
            open: Arc::new(Semaphore::new(MAX_OPEN)),
            empty: AtomicU64::new(0),
            failures: AtomicUsize::new(0),
        }
    }

    /// Sends what is due on each beat, until it is dropped.
    pub(super) async fn run(self: &Arc<Self>, fleet: &Fleet) {
        let room = || Arc::clone(&self.open).try_acquire_owned().ok();
        self.beats.run(room, |beat, open| self.leave(beat, open, fleet)).await;
    }

    /// Notes that an editor is used, and makes the answer to its request like all others.
    pub(super) fn shape(&self, options: &mut Options) {
        self.beats.touch();
        // Written out: what a server takes the absence for is not known here.
        let tokens = *options.max_tokens.get_or_insert(DEFAULT_NEW_TOKENS);
        let mut shape = self.lock();
        shape.tokens = shape.tokens.max(tokens.saturating_mul(options.n.unwrap_or(1)));
        options.pad_tokens = Some(shape.tokens);
    }

    /// Waits for a beat, sends `request`, and gives what it is answered with. Dropping this before the beat withdraws the request; after it,
    /// the answer is read to its end in the background.
    ///
    /// # Errors
    /// As [`crate::client::Link::stream`].
    pub(super) async fn stream(
        &self,
        server: &Arc<Upstream>,
        warm: &Arc<Warm>,
        request: &Request,
    ) -> Result<StreamReply, ClientError> {
        let (reply, answer) = oneshot::channel();
        let (server, warm) = (Arc::clone(server), Arc::clone(warm));
        let body = Secret::new(request.body.expose().clone());
        self.beats.push(Waiting::Stream(Departing { server, warm, path: request.path, body, reply }));
        answer.await.unwrap_or(Err(ClientError::TimedOut { secs: HEAD_TIMEOUT.as_secs() }))
    }

    /// Waits for a beat. What is sent then shows by its answer that it is none of the usual requests.
    pub(super) async fn turn(&self) {
        let (reply, beat) = oneshot::channel();
        self.beats.push(Waiting::Turn(reply));
        beat.await.ok();
    }

    /// For the status page.
    pub(super) fn state(&self) -> Value {
        let Rhythm { interval, idle } = self.beats.rhythm();
        json!({
            "interval_ms": u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            "idle_secs": idle.as_secs(),
            "running": self.beats.is_running(),
            "waiting": self.beats.waiting(),
            "empty_requests": self.empty.load(Ordering::Relaxed),
        })
    }

    fn leave(self: &Arc<Self>, beat: Beat<Waiting>, open: OwnedSemaphorePermit, fleet: &Fleet) {
        match beat {
            Beat::Request(Waiting::Turn(reply)) => {
                reply.send(()).ok();
            }
            Beat::Request(Waiting::Stream(departing)) => {
                self.lock().path = departing.path;
                tokio::spawn(departing.leave(open));
            }
            Beat::Empty => {
                // Without a session there is nothing to send, nor would an editor's request be sent.
                let Ok((server, warm)) = fleet.pick() else { return };
                let Some(request) = self.empty_request(&warm) else { return };
                self.empty.fetch_add(1, Ordering::Relaxed);
                let cover = Arc::clone(self);
                tokio::spawn(async move { cover.leave_empty(&server, &warm, &request, open).await });
            }
        }
    }

    /// A request that a server answers at once, with as many frames as the others.
    fn empty_request(&self, warm: &Warm) -> Option<Request> {
        // A server of the first version cannot be asked for nothing.
        if !warm.features.holes {
            return None;
        }
        let Shape { path, tokens } = *self.lock();
        let prompt = Secret::new(EMPTY_PROMPT.to_owned());
        let task = match path {
            "/v1/chat/completions" => Task::Chat(vec![Turn { role: Role::User, content: prompt }]),
            _ => Task::Text(prompt),
        };
        let options = Options { max_tokens: Some(0), pad_tokens: Some(tokens), ..Options::default() };
        Request::new(&task, &options, false, true, warm.features).ok()
    }

    async fn leave_empty(
        &self,
        server: &Arc<Upstream>,
        warm: &Arc<Warm>,
        request: &Request,
        open: OwnedSemaphorePermit,
    ) {
        let sent = server.link.stream_to_the_end(&warm.held, request.path, &request.body, open);
        // The result of a stream that has begun does not matter: it is read in the background.
        match tokio::time::timeout(HEAD_TIMEOUT, sent).await {
            Ok(Err(error)) if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES => {
                server.report(warm, &error);
            }
            Ok(Err(_)) | Err(_) => {}
            Ok(Ok(_)) => self.failures.store(0, Ordering::Relaxed),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shape> {
        self.shape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Departing {
    async fn leave(self, open: OwnedSemaphorePermit) {
        let Self { server, warm, path, body, reply } = self;
        let sent = server.link.stream_to_the_end(&warm.held, path, &body, open);
        if let Ok(answer) = tokio::time::timeout(HEAD_TIMEOUT, sent).await {
            // An answer that is not wanted any more is dropped, and so read to its end.
            reply.send(answer).ok();
        }
    }
}
