//! The way of every sealed request up to its plaintext: read, admit, unwrap the key, open, refuse replays.
//!
//! Whatever is wrong with an envelope is one and the same answer. Must not touch: ciphers other than through
//! [`Dek`], what the plaintext says.

use std::sync::Arc;

use axum::extract::Request;
use tokio::time::Instant;

use super::body;
use super::replay::Remembered;
use crate::keys::KeyError;
use crate::protocol::{Dek, Envelope, ErrorCode, SERVER_HEADER};
use crate::secret::Secret;
use crate::server::error::ApiError;
use crate::server::state::{App, Loaded, Slot, unix_time};
use crate::tokenizer::Tokenizer;

/// Requests of up to this many bytes are parsed, opened and tokenised where they are: code of 2 KB takes 0.3 ms with the
/// embedded tokenizer, and to wake another thread and be woken by it takes its time as well.
const SHORT: usize = 8 * 1024;

/// A request that is authentic, fresh, new, and has a slot.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    /// What answers it, even if the server has begun to drain meanwhile: the drain waits for the slot.
    pub(crate) loaded: &'a Loaded,
    pub(crate) dek: Arc<Dek>,
    pub(crate) remembered: Remembered,
    pub(crate) slot: Slot,
}

impl App {
    /// Takes a request in, and has `read` read its plaintext; `parse` reads the envelope.
    ///
    /// # Errors
    /// Everything that is answered outside the seal.
    pub(crate) async fn receive<T: Send + 'static>(
        &self,
        request: Request,
        deadline: Instant,
        parse: fn(&[u8]) -> Result<Envelope, ErrorCode>,
        read: impl FnOnce(Secret<Vec<u8>>, &Tokenizer) -> T + Send + 'static,
    ) -> Result<(Opened<'_>, T), ApiError> {
        let loaded = self.loaded()?;
        self.check_server(&request)?;
        let body = body::read(request, self.limits.max_body_bytes, self.limits.body_timeout).await?;
        // Only now: whoever trickles a body must not keep others from a slot.
        let slot = self.admit()?;
        let is_short = body.len() <= SHORT;
        let envelope = if is_short { parse(&body) } else { blocking(move || parse(&body)).await? }?;
        let dek = self.key(loaded, &envelope, deadline).await?;
        let (replay, tokenizer) = (Arc::clone(&self.replay), Arc::clone(&loaded.tokenizer));
        let open = move || {
            let plaintext = envelope.open(&dek)?;
            let remembered = replay.remember(&envelope.token, unix_time())?;
            Ok::<_, ApiError>((dek, remembered, read(plaintext, &tokenizer)))
        };
        let (dek, remembered, read) = if is_short { open() } else { blocking(open).await? }?;
        Ok((Opened { loaded, dek, remembered, slot }, read))
    }

    /// A client that says which server it verified is not answered by another, nor is its key unwrapped.
    fn check_server(&self, request: &Request) -> Result<(), ErrorCode> {
        let Some(named) = request.headers().get(SERVER_HEADER) else { return Ok(()) };
        let named = named.to_str().ok().and_then(|text| text.parse().ok());
        if named == Some(self.attestor.server()) { Ok(()) } else { Err(ErrorCode::ServerChanged) }
    }

    async fn key(
        &self,
        loaded: &Loaded,
        envelope: &Envelope,
        deadline: Instant,
    ) -> Result<Arc<Dek>, ApiError> {
        let started = Instant::now();
        let key = tokio::time::timeout_at(deadline, loaded.keys.dek(&envelope.wrapped_dek)).await;
        self.metrics.key(started.elapsed());
        let key = key.map_err(|_| ErrorCode::DeadlineExceeded)?;
        Ok(key.inspect_err(|error| self.metrics.key_failed(error.as_str()))?)
    }
}

impl Opened<'_> {
    /// After an error that the server is to blame for, and that a wait can heal, the very same envelope may come
    /// again: no request is lost that could have been served.
    pub(crate) fn give_up(self, error: &ApiError) {
        if error.code().retry_after_secs().is_some() {
            self.remembered.release();
        }
    }
}

impl From<KeyError> for ApiError {
    fn from(error: KeyError) -> Self {
        error.code().into()
    }
}

/// Runs `work` where it may take its time: ciphers and tokenizers over a megabyte hold up everybody else here.
///
/// # Errors
/// [`ErrorCode::Internal`] if it panicked.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ErrorCode> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ErrorCode::Internal)
}
