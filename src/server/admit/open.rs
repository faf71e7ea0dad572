//! From a request to its plaintext: read the body, take a slot, unwrap the key, open the envelope, refuse replays.
//!
//! Whatever is wrong with an envelope gets one and the same answer. What the plaintext says is the caller's.

use std::sync::Arc;

use axum::extract::Request;
use tokio::time::Instant;

use super::body;
use super::replay::Remembered;
use crate::keys::KeyError;
use crate::protocol::{Dek, Envelope, ErrorCode, SERVER_HEADER};
use crate::secret::Secret;
use crate::server::blocking;
use crate::server::error::ApiError;
use crate::server::state::{App, Loaded, Slot, unix_time};
use crate::tokenizer::Tokenizer;

/// A request that is authentic, fresh and new, and has a slot.
#[derive(Debug)]
pub(crate) struct Admitted<'a> {
    /// What answers it, even if the server begins to drain meanwhile: the drain waits for the slot.
    pub(crate) loaded: &'a Loaded,
    pub(crate) dek: Arc<Dek>,
    remembered: Remembered,
    pub(crate) slot: Slot,
    /// When the last byte of the request's body was read.
    pub(crate) arrived: Instant,
    /// Size of the request's body, in bytes.
    pub(crate) bytes: usize,
}

/// Opens `request`: its plaintext, and what is needed to answer it. `parse` reads the envelope; KMS has until `deadline`.
///
/// # Errors
/// Everything that is answered outside the seal.
pub(crate) async fn open(
    app: &App,
    request: Request,
    deadline: Instant,
    parse: fn(&[u8]) -> Result<Envelope, ErrorCode>,
) -> Result<(Admitted<'_>, Secret<Vec<u8>>), ApiError> {
    let loaded = app.loaded()?;
    check_server(app, &request)?;
    let body = body::read(request, app.limits.max_body_bytes, app.limits.body_timeout).await?;
    let (arrived, bytes) = (Instant::now(), body.len());
    // After the body: a client that sends it slowly must not keep a slot from others.
    let slot = app.admit()?;
    let short = bytes <= blocking::SHORT_BODY;
    let envelope = blocking::run(short, move || parse(&body)).await??;
    let dek = unwrap_key(app, loaded, &envelope, deadline).await?;
    let (key, replay) = (Arc::clone(&dek), Arc::clone(&app.replay));
    let opened = blocking::run(short, move || {
        let plaintext = envelope.open(&key)?;
        // After the envelope was authenticated: otherwise unauthenticated clients could fill the replay set.
        let remembered = replay.remember(&envelope.token, unix_time())?;
        Ok::<_, ApiError>((plaintext, remembered))
    });
    let (plaintext, remembered) = opened.await??;
    Ok((Admitted { loaded, dek, remembered, slot, arrived, bytes }, plaintext))
}

/// A client that names the server it verified is not answered by another, nor is its key unwrapped.
fn check_server(app: &App, request: &Request) -> Result<(), ErrorCode> {
    let Some(named) = request.headers().get(SERVER_HEADER) else { return Ok(()) };
    let named = named.to_str().ok().and_then(|text| text.parse().ok());
    if named == Some(app.attestor.server()) { Ok(()) } else { Err(ErrorCode::ServerChanged) }
}

async fn unwrap_key(
    app: &App,
    loaded: &Loaded,
    envelope: &Envelope,
    deadline: Instant,
) -> Result<Arc<Dek>, ApiError> {
    let started = Instant::now();
    let dek = tokio::time::timeout_at(deadline, loaded.keys.dek(&envelope.wrapped_dek)).await;
    app.metrics.key(started.elapsed());
    let dek = dek.map_err(|_| ErrorCode::DeadlineExceeded)?;
    Ok(dek.inspect_err(|error| app.metrics.key_failed(error.as_str()))?)
}

impl Admitted<'_> {
    /// Has `read` make something of the plaintext, on a blocking thread if it is long.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if it panicked.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        plaintext: Secret<Vec<u8>>,
        read: impl FnOnce(Secret<Vec<u8>>, &Tokenizer) -> T + Send + 'static,
    ) -> Result<T, ErrorCode> {
        let tokenizer = Arc::clone(&self.loaded.tokenizer);
        // Padding is no work.
        let short = plaintext.expose().trim_ascii_end().len() <= blocking::SHORT_TEXT;
        blocking::run(short, move || read(plaintext, &tokenizer)).await
    }

    /// After an error of the server that a wait can heal, the very same envelope may come again: no request is lost that
    /// could have been served.
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
