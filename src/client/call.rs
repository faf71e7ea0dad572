//! Sealed calls for programs that run for long: any JSON body, under a session that the caller holds.
//!
//! Dropping a future or a stream closes its connection, which cancels the request on the server.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::OwnedSemaphorePermit;

use super::error::{ClientError, NotAuthentic};
use super::exchange::{self, NextFrame, StreamOpener};
use super::session::{NO_RANDOMNESS, PendingCall, Session};
use super::transport::{Body, Incoming, Origin, Transport};
use super::verify::{Verdict, Verifier};
use crate::keys::WrapConfig;
use crate::protocol::{ServerId, SessionTag};
use crate::secret::Secret;

/// A server, the connections to it, and how sessions with it begin.
#[derive(Debug)]
pub struct Link {
    transport: Transport,
    keys: WrapConfig,
    verifier: Option<Verifier>,
    traffic: Arc<Traffic>,
}

/// A server that has proven what the policy demands. Only [`Link::verify`] makes one.
#[derive(Debug)]
pub struct Proof {
    verdict: Verdict,
    server: ServerId,
    tag: SessionTag,
}

/// A fresh DEK that was wrapped and that no server has been sent.
#[derive(Debug)]
pub struct SpareKey(Session);

/// A session, with the verdict that it rests on. Dropping the last reference wipes the DEK.
#[derive(Debug)]
pub struct Held {
    session: Session,
    verdict: Option<Verdict>,
    since: SystemTime,
}

/// Sealed bytes that went over a link.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

/// Keeps the sealed bytes of one call, to show them.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Recorded>>);

/// What a [`Recorder`] has seen: exactly what an operator can see of the call.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The body of the request.
    pub sent: Vec<u8>,
    /// The body of the answer.
    pub received: Vec<u8>,
}

/// What a call for a stream is answered with.
#[derive(Debug)]
pub enum StreamReply {
    /// The whole body in one piece.
    Whole(Secret<String>),
    /// Events, frame by frame.
    Stream(Box<Events>),
}

/// A sealed stream. Dropping it cancels the request.
pub struct Events {
    opener: StreamOpener,
    traffic: Arc<Traffic>,
    body: Body,
}

impl Link {
    /// Sets up; nothing is connected to or wrapped yet. With a verifier no key is wrapped for another server.
    ///
    /// # Errors
    /// [`ClientError::Internal`] if TLS cannot be set up.
    pub fn new(server: &Origin, keys: WrapConfig, verifier: Option<Verifier>) -> Result<Self, ClientError> {
        let transport = Transport::new(server.clone())?;
        Ok(Self { transport, keys, verifier, traffic: Arc::default() })
    }

    /// Verifies the server. `None` if there is no verifier.
    ///
    /// # Errors
    /// [`ClientError::Untrusted`] if the server is not what the policy says, and what [`Verifier::verify_at`] fails with.
    pub async fn verify(&self) -> Result<Option<Proof>, ClientError> {
        let Some(verifier) = &self.verifier else { return Ok(None) };
        let tag = SessionTag::random().map_err(|_| NO_RANDOMNESS)?;
        let verdict = verifier.verify(&self.transport, Some(tag)).await?;
        let server = verdict.trusted()?.server;
        Ok(Some(Proof { verdict, server, tag }))
    }

    /// Makes a DEK and has it wrapped.
    ///
    /// # Errors
    /// [`ClientError::Wrap`] if the key service cannot be reached or refuses.
    pub async fn wrap(&self) -> Result<SpareKey, ClientError> {
        Ok(SpareKey(Session::start(self.keys.clone()).await?))
    }

    /// Begins a session under `key`. With a proof it is bound to the server that gave it.
    ///
    /// # Errors
    /// [`ClientError::Internal`] if servers are verified here and there is no proof.
    pub fn hold(&self, key: SpareKey, proof: Option<Proof>) -> Result<Held, ClientError> {
        match proof {
            Some(Proof { verdict, server, tag }) => Ok(Held::new(key.0.bound_to(server, tag), Some(verdict))),
            None if self.verifies() => Err(ClientError::Internal("a session without a verdict")),
            None => Ok(Held::new(key.0, None)),
        }
    }

    /// Opens a connection that the next request can use, unless there is one. It carries an unsealed `GET` that asks
    /// for nothing but a sign of life. Failures are left to the next request.
    pub async fn prepare_connection(&self) {
        self.transport.prepare().await;
    }

    /// Whether servers are verified before a key is wrapped for them.
    pub fn verifies(&self) -> bool {
        self.verifier.is_some()
    }

    /// Sealed bytes so far.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Calls `path` with `body` and gives back the body of the answer, which has status 200 inside the seal.
    ///
    /// # Errors
    /// [`ClientError`]; nothing is tried twice.
    pub async fn call(
        &self,
        held: &Held,
        path: &str,
        body: &Secret<String>,
        recorder: Option<&Recorder>,
    ) -> Result<Secret<String>, ClientError> {
        let (pending, incoming) = self.post(held, path, body, false, recorder).await?;
        let Incoming::Whole(answer) = incoming else { return Err(NotAuthentic::Malformed.into()) };
        let answer = answer.whole().await?;
        self.traffic.received(answer.len());
        if let Some(recorder) = recorder {
            recorder.lock().received.clone_from(&answer);
        }
        exchange::whole(&pending, &answer)
    }

    /// Calls `path` with `body`, which asks for a stream.
    ///
    /// # Errors
    /// [`ClientError`] if no answer begins; nothing is tried twice.
    pub async fn stream(
        &self,
        held: &Held,
        path: &str,
        body: &Secret<String>,
    ) -> Result<StreamReply, ClientError> {
        match self.post(held, path, body, true, None).await? {
            (pending, Incoming::Whole(answer)) => {
                let answer = answer.whole().await?;
                self.traffic.received(answer.len());
                Ok(StreamReply::Whole(exchange::whole(&pending, &answer)?))
            }
            (pending, Incoming::Stream(body)) => {
                let (opener, traffic) = (StreamOpener::new(pending), Arc::clone(&self.traffic));
                Ok(StreamReply::Stream(Box::new(Events { opener, traffic, body })))
            }
        }
    }

    /// The same; the stream is read to its last frame in the background if it is dropped before. `permit` is kept until then.
    ///
    /// # Errors
    /// As [`Link::stream`].
    pub async fn stream_to_the_end(
        &self,
        held: &Held,
        path: &str,
        body: &Secret<String>,
        permit: OwnedSemaphorePermit,
    ) -> Result<StreamReply, ClientError> {
        let mut reply = self.stream(held, path, body).await?;
        if let StreamReply::Stream(events) = &mut reply {
            events.body.read_on(permit);
        }
        Ok(reply)
    }

    async fn post(
        &self,
        held: &Held,
        path: &str,
        body: &Secret<String>,
        stream: bool,
        recorder: Option<&Recorder>,
    ) -> Result<(PendingCall, Incoming), ClientError> {
        let (pending, sealed) = held.session.seal(path, body.expose())?;
        self.traffic.sent.fetch_add(sealed.len() as u64, Ordering::Relaxed);
        if let Some(recorder) = recorder {
            recorder.lock().sent.clone_from(&sealed);
        }
        Ok((pending, self.transport.post(path, sealed, stream, held.session.recipient()).await?))
    }
}

impl Proof {
    /// What was proven.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

impl Held {
    fn new(session: Session, verdict: Option<Verdict>) -> Self {
        Self { session, verdict, since: SystemTime::now() }
    }

    /// When its DEK was wrapped.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// What the session rests on, if the server was verified.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }
}

impl Traffic {
    /// Bytes of sealed requests.
    pub fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes of sealed answers.
    pub fn received_bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Recorder {
    /// What was recorded so far.
    pub fn recorded(&self) -> Recorded {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events {
    /// The events of the next frame, none for a filler; `None` after the last frame.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an error event, [`ClientError::NotAuthentic`] for a stream that is forged or cut.
    pub async fn next(&mut self) -> Result<Option<Vec<Secret<String>>>, ClientError> {
        loop {
            match self.opener.next_frame()? {
                NextFrame::Events(events) => return Ok(Some(events)),
                NextFrame::End => return Ok(None),
                NextFrame::Incomplete => {}
            }
            let Some(chunk) = self.body.chunk().await? else {
                self.opener.finish()?;
                return Err(NotAuthentic::Cut.into());
            };
            self.traffic.received(chunk.len());
            self.opener.push(&chunk)?;
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("opener", &self.opener).finish_non_exhaustive()
    }
}
