//! Opens what a server answers to a sealed call, from its bytes alone: without a connection.

use std::collections::VecDeque;

use serde_json::value::RawValue;

use super::error::{ClientError, NotAuthentic, Refusal};
use super::session::{PendingCall, Session};
use super::sse::SseReader;
use crate::protocol::{ErrorBody, FrameReader, Reply, SealedReply};
use crate::secret::Secret;

/// A call that was sealed and not sent.
#[derive(Debug)]
pub struct Exchange {
    pending: PendingCall,
    request: Vec<u8>,
}

/// Opens the frames of a sealed stream, however its bytes are cut into chunks.
pub struct StreamOpener {
    pending: PendingCall,
    sse: SseReader,
    frames: FrameReader,
    tokens: VecDeque<String>,
    last: bool,
}

/// The next frame of a stream.
#[derive(Debug)]
pub enum NextFrame {
    /// The events of the next frame, none for a filler.
    Events(Vec<Secret<String>>),
    /// The next frame is not there yet.
    Incomplete,
    /// The last frame was read.
    End,
}

impl Exchange {
    /// Seals `body`, a JSON value, for `path`.
    ///
    /// # Errors
    /// [`ClientError::Internal`] if it is no JSON, or the OS random number generator failed.
    pub fn new(session: &Session, path: &str, body: &str) -> Result<Self, ClientError> {
        let (pending, request) = session.seal(path, body)?;
        Ok(Self { pending, request })
    }

    /// The body of the request.
    pub fn request(&self) -> &[u8] {
        &self.request
    }

    /// Opens an answer in one piece, which has status 200 inside the seal: its body.
    ///
    /// # Errors
    /// [`ClientError::NotAuthentic`] for what is forged or malformed, [`ClientError::Refused`] for another status.
    pub fn whole(&self, answer: &[u8]) -> Result<Secret<String>, ClientError> {
        whole(&self.pending, answer)
    }

    /// What opens a stream.
    pub fn stream(self) -> StreamOpener {
        StreamOpener::new(self.pending)
    }
}

impl StreamOpener {
    pub(super) fn new(pending: PendingCall) -> Self {
        Self {
            frames: FrameReader::new(pending.id),
            pending,
            sse: SseReader::default(),
            tokens: VecDeque::new(),
            last: false,
        }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// What is no server-sent event of this protocol.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), NotAuthentic> {
        self.tokens.extend(self.sse.push(chunk)?);
        Ok(())
    }

    /// Opens the next frame.
    ///
    /// # Errors
    /// [`ClientError::Refused`] for an error event, [`ClientError::NotAuthentic`] for a frame that is forged or out of
    /// order.
    pub fn next_frame(&mut self) -> Result<NextFrame, ClientError> {
        if self.last {
            return Ok(NextFrame::End);
        }
        let Some(token) = self.tokens.pop_front() else { return Ok(NextFrame::Incomplete) };
        let plaintext = self.pending.open(&token)?;
        let frame = self.frames.accept(plaintext.expose()).map_err(NotAuthentic::from)?;
        self.last = frame.last;
        let mut events = Vec::with_capacity(frame.events.len());
        for event in frame.events {
            let event = Secret::new(String::from(Box::<str>::from(event)));
            if let Ok(error) = serde_json::from_str::<ErrorBody>(event.expose()) {
                return Err(Refusal::sealed(200, error).into());
            }
            events.push(event);
        }
        Ok(NextFrame::Events(events))
    }

    /// To be called when the connection has ended.
    ///
    /// # Errors
    /// The last frame has not come.
    pub fn finish(&self) -> Result<(), NotAuthentic> {
        if self.last { Ok(()) } else { self.frames.finish().map_err(NotAuthentic::from) }
    }

    /// Whether the last frame was read.
    pub fn has_ended(&self) -> bool {
        self.last
    }
}

impl std::fmt::Debug for StreamOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamOpener").field("last", &self.last).finish_non_exhaustive()
    }
}

/// Opens the whole answer to what was pending.
pub(super) fn whole(pending: &PendingCall, answer: &[u8]) -> Result<Secret<String>, ClientError> {
    let sealed: SealedReply = serde_json::from_slice(answer).map_err(|_| NotAuthentic::Malformed)?;
    let plaintext = pending.open(&sealed.ciphertext)?;
    let reply: Reply<&RawValue> =
        serde_json::from_slice(plaintext.expose()).map_err(|_| NotAuthentic::Malformed)?;
    if reply.id != pending.id {
        return Err(NotAuthentic::WrongRequest.into());
    }
    if reply.status != 200 {
        let error: ErrorBody = serde_json::from_str(reply.body.get()).map_err(|_| NotAuthentic::Malformed)?;
        return Err(Refusal::sealed(reply.status, error).into());
    }
    Ok(Secret::new(reply.body.get().to_owned()))
}
