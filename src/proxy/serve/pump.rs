//! A stream on its way: sealed frames in, pieces in the client's shape out.
//!
//! The client's stream ends with the text. The sealed stream is read on to its last frame, so that a network observer sees
//! the same whenever the text ends. A client that leaves before the text has ended cancels it.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

use super::texts::Texts;
use crate::client::{ClientError, Events, NotAuthentic};
use crate::proxy::error::Failure;
use crate::proxy::gathered::REST_TIMEOUT;
use crate::proxy::keystrokes::{Fingerprint, Guard};
use crate::proxy::ledger::{Outcome, Ticket};
use crate::proxy::link::{Upstream, Warm};
use crate::proxy::listen::Busy;
use crate::secret::Secret;

/// Pieces that the client has not taken yet.
const MAX_PENDING: usize = 16;
/// How long the client may take for a piece.
const TAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a client that waits is told that the connection lives.
const COMMENT_INTERVAL: Duration = Duration::from_secs(10);

/// All that a stream needs until its end.
pub(super) struct Pump {
    pub(super) events: Box<Events>,
    pub(super) texts: Texts,
    pub(super) keep: Option<Keep>,
    pub(super) guard: Option<Guard>,
    pub(super) server: Arc<Upstream>,
    pub(super) warm: Arc<Warm>,
    pub(super) started: Instant,
    pub(super) timeout: Duration,
    pub(super) page: String,
}

/// Where the whole text is kept for the next keys.
pub(super) struct Keep {
    pub(super) fingerprint: Fingerprint,
    pub(super) before: Secret<String>,
}

/// Why a stream ends.
enum End {
    /// The text has ended.
    Text,
    /// The client has left, or takes nothing any more.
    ClientGone,
    /// A newer request has taken its place.
    Superseded,
    Failed(ClientError),
    Late,
}

type Sender = mpsc::Sender<io::Result<Bytes>>;
type Receiver = mpsc::Receiver<io::Result<Bytes>>;

impl Pump {
    /// Waits for the first piece, so that what fails before it is an ordinary error; the rest comes as the body.
    ///
    /// # Errors
    /// Why there is no first piece.
    pub(super) async fn start(mut self, ticket: Ticket, busy: Busy) -> Result<Body, Failure> {
        let first = match tokio::time::timeout(self.remaining(), self.first()).await {
            Ok(Ok(first)) => first,
            Ok(Err(error)) => {
                self.server.report(&self.warm, &error);
                let failure = Failure::of(&error);
                ticket.fail(&failure);
                return Err(failure);
            }
            Err(_) => {
                ticket.fail(&Failure::Deadline);
                return Err(Failure::Deadline);
            }
        };
        let (sender, receiver) = mpsc::channel(MAX_PENDING);
        tokio::spawn(self.run(first, sender, ticket, busy));
        Ok(Body::from_stream(stream::unfold(receiver, next_piece)))
    }

    /// The bytes of the first frame that says anything.
    async fn first(&mut self) -> Result<Vec<Bytes>, ClientError> {
        loop {
            let Some(events) = self.events.next().await? else { return Err(NotAuthentic::Malformed.into()) };
            let bytes = self.texts.absorb(&events)?;
            if !bytes.is_empty() || self.texts.have_ended() {
                return Ok(bytes);
            }
        }
    }

    async fn run(mut self, first: Vec<Bytes>, sender: Sender, ticket: Ticket, busy: Busy) {
        let end = self.pass_on(first, &sender).await;
        match end {
            End::Text | End::Superseded => {
                let last = self.texts.close(self.started.elapsed());
                send(&sender, Ok(last)).await;
                let outcome = if matches!(end, End::Text) { Outcome::Answered } else { Outcome::Superseded };
                drop((sender, busy));
                if matches!(end, End::Text) {
                    self.keep_text();
                    tokio::time::timeout(REST_TIMEOUT, self.read_rest()).await.ok();
                }
                ticket.end(outcome, self.texts.counts.unwrap_or_default());
            }
            // Dropping the events cancels the request.
            End::ClientGone => drop(ticket),
            End::Failed(error) => {
                self.server.report(&self.warm, &error);
                self.break_off(&Failure::of(&error), &sender, ticket).await;
            }
            End::Late => self.break_off(&Failure::Deadline, &sender, ticket).await,
        }
    }

    /// Passes text on until it ends.
    async fn pass_on(&mut self, first: Vec<Bytes>, sender: &Sender) -> End {
        let mut bytes = first;
        loop {
            for piece in bytes {
                if !send(sender, Ok(piece)).await {
                    return End::ClientGone;
                }
            }
            if self.texts.have_ended() && (self.texts.counts.is_some() || !self.texts.pieces.tell_counts()) {
                return End::Text;
            }
            bytes = match self.next(sender).await {
                Ok(bytes) => bytes,
                Err(end) => return end,
            };
        }
    }

    /// The bytes of the next frame, or a comment that keeps the connection alive.
    async fn next(&mut self, sender: &Sender) -> Result<Vec<Bytes>, End> {
        let left = self.remaining();
        let superseded = async {
            match &self.guard {
                Some(guard) => guard.superseded().await,
                None => std::future::pending().await,
            }
        };
        let events = tokio::select! {
            biased;
            () = sender.closed() => return Err(End::ClientGone),
            () = superseded => return Err(End::Superseded),
            events = self.events.next() => events,
            () = tokio::time::sleep(left) => return Err(End::Late),
            () = tokio::time::sleep(COMMENT_INTERVAL) => return Ok(self.texts.pieces.comment().into_iter().collect()),
        };
        match events {
            Ok(Some(events)) => self.texts.absorb(&events).map_err(End::Failed),
            // The last frame has come: there are no counts.
            Ok(None) if self.texts.have_ended() => {
                self.texts.counts = Some(self.texts.counts.unwrap_or_default());
                Ok(Vec::new())
            }
            // Some text has no end.
            Ok(None) => Err(End::Failed(NotAuthentic::Malformed.into())),
            Err(error) => Err(End::Failed(error)),
        }
    }

    /// How much longer the text may take.
    fn remaining(&self) -> Duration {
        self.timeout.saturating_sub(self.started.elapsed())
    }

    /// A stream that has failed never ends as if it were whole: an error event, then a broken connection.
    async fn break_off(&self, failure: &Failure, sender: &Sender, ticket: Ticket) {
        ticket.fail(failure);
        if send(sender, Ok(self.texts.pieces.failure(failure, &self.page))).await {
            send(sender, Err(io::ErrorKind::ConnectionAborted.into())).await;
        }
    }

    fn keep_text(&self) {
        if let (Some(keep), Some((text, finish))) = (&self.keep, self.texts.only()) {
            self.warm.predictions.keep(keep.fingerprint, keep.before.expose(), text, finish);
        }
    }

    /// Reads the sealed stream to its last frame. What is wrong with it now changes no answer any more.
    async fn read_rest(&mut self) {
        while let Ok(Some(events)) = self.events.next().await {
            self.texts.absorb(&events).ok();
        }
    }
}

/// The next piece of the body. Before an error the body is pending once: that makes hyper flush what it has. Without it
/// hyper drops the connection together with the error event that it has not written yet.
async fn next_piece(mut receiver: Receiver) -> Option<(io::Result<Bytes>, Receiver)> {
    let piece = receiver.recv().await?;
    if piece.is_err() {
        tokio::task::yield_now().await;
    }
    Some((piece, receiver))
}

/// Whether the client is still there to take `piece`.
async fn send(sender: &Sender, piece: io::Result<Bytes>) -> bool {
    matches!(tokio::time::timeout(TAKE_TIMEOUT, sender.send(piece)).await, Ok(Ok(())))
}
