//! Completions through a session: sealed, sent, checked, opened.
//!
//! With a verifier, a session is bound to one verified server. When another server answers, a new session begins.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;

use super::error::{ClientError, NotAuthentic};
use super::input::Prompt;
use super::open::{self, Frames, StreamEnd, TextCompletion};
use super::request::{self, CompletionOptions};
use super::retry::{MAX_ATTEMPTS, RetryBudget};
use super::session::{NO_RANDOMNESS, Session};
use super::show_sealed::{Wire, WireTap};
use super::sse::SseReader;
use super::transport::{Body, Incoming, Origin, Transport};
use super::verify::Verifier;
use crate::keys::WrapConfig;
use crate::protocol::openai::{FinishReason, Usage};
use crate::protocol::{ErrorCode, SessionTag};
use crate::secret::Secret;

const PATH: &str = "/v1/completions";
/// How long before its token expires a verdict is no longer used: a request takes time to arrive.
const VERDICT_MARGIN_SECS: u64 = 30;

/// A server and the session that is held with it.
#[derive(Debug)]
pub struct Client {
    session: Mutex<Current>,
    /// How new sessions begin; none if there is only the session that the client was made with.
    renewal: Option<Renewal>,
    transport: Transport,
    max_attempts: u32,
}

#[derive(Debug)]
struct Current {
    session: Arc<Session>,
    /// In seconds since 1970.
    verdict_expires: u64,
}

#[derive(Debug)]
struct Renewal {
    verifier: Verifier,
    keys: WrapConfig,
}

/// The callback for the pieces of a streamed text. An error ends the stream.
pub type OnText<'a> = dyn FnMut(&str) -> Result<(), ClientError> + 'a;

impl Client {
    /// Starts a session: makes a DEK and has it wrapped.
    ///
    /// # Errors
    /// [`ClientError::Wrap`] if the key service cannot be reached or refuses.
    pub async fn connect(server: &Origin, keys: WrapConfig) -> Result<Self, ClientError> {
        Self::new(server, Session::start(keys).await?)
    }

    /// Holds `session` with `server`.
    ///
    /// # Errors
    /// [`ClientError::Internal`] if TLS cannot be set up.
    pub fn new(server: &Origin, session: Session) -> Result<Self, ClientError> {
        let session = Current { session: Arc::new(session), verdict_expires: u64::MAX };
        Ok(Self {
            session: Mutex::new(session),
            renewal: None,
            transport: Transport::new(server.clone())?,
            max_attempts: MAX_ATTEMPTS,
        })
    }

    /// Verifies the server first, and has a DEK wrapped only if it is what the verifier's policy says. When another
    /// server answers, or the verdict expires, both are done again before anything else is sent.
    ///
    /// # Errors
    /// [`ClientError::Untrusted`] if it is not, [`ClientError::Wrap`] as in [`Client::connect`].
    pub async fn connect_verified(
        server: &Origin,
        keys: WrapConfig,
        verifier: Verifier,
    ) -> Result<Self, ClientError> {
        let transport = Transport::new(server.clone())?;
        let renewal = Renewal { verifier, keys };
        let session = Mutex::new(renewal.begin(&transport).await?);
        Ok(Self { session, renewal: Some(renewal), transport, max_attempts: MAX_ATTEMPTS })
    }

    /// Gives up at the first refusal, even if the server says that a wait can heal it.
    #[must_use]
    pub fn without_retries(self) -> Self {
        Self { max_attempts: 1, ..self }
    }

    /// Gets the whole completion of `prompt`.
    ///
    /// # Errors
    /// [`ClientError`]; a busy server is tried again within small bounds.
    pub async fn complete(
        &self,
        prompt: &Prompt,
        options: &CompletionOptions,
        tap: &mut WireTap<'_>,
    ) -> Result<TextCompletion, ClientError> {
        let body = request::body(prompt, options, false)?;
        let mut budget = RetryBudget::of(self.max_attempts);
        loop {
            let session = self.session().await?;
            match self.try_complete(&session, &body, tap).await {
                Err(error) => self.before_another_attempt(error, &session, &mut budget).await?,
                answer => return answer,
            }
        }
    }

    /// Gets the completion of `prompt` piece by piece. If it fails, what was passed on is not whole.
    ///
    /// # Errors
    /// [`ClientError`]; a busy server is tried again within small bounds, unless text was passed on already.
    pub async fn stream(
        &self,
        prompt: &Prompt,
        options: &CompletionOptions,
        tap: &mut WireTap<'_>,
        on_text: &mut OnText<'_>,
    ) -> Result<(FinishReason, Option<Usage>), ClientError> {
        self.stream_with_end(prompt, options, tap, on_text, &mut || ()).await
    }

    /// The same; `on_text_end` is called when the text has ended. Frames without text may follow before this returns.
    ///
    /// # Errors
    /// As [`Client::stream`].
    pub async fn stream_with_end(
        &self,
        prompt: &Prompt,
        options: &CompletionOptions,
        tap: &mut WireTap<'_>,
        on_text: &mut OnText<'_>,
        on_text_end: &mut dyn FnMut(),
    ) -> Result<(FinishReason, Option<Usage>), ClientError> {
        let body = request::body(prompt, options, true)?;
        let mut budget = RetryBudget::of(self.max_attempts);
        let mut begun = false;
        loop {
            let mut pass_on = |text: &str| {
                begun |= !text.is_empty();
                on_text(text)
            };
            let session = self.session().await?;
            match self.try_stream(&session, &body, tap, &mut pass_on, on_text_end).await {
                Ok(end) => return Ok((end.finish, end.usage)),
                Err(error) if begun => return Err(error),
                Err(error) => self.before_another_attempt(error, &session, &mut budget).await?,
            }
        }
    }

    /// The session; a new one if the verdict has expired.
    async fn session(&self) -> Result<Arc<Session>, ClientError> {
        let mut current = self.session.lock().await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if let Some(renewal) = &self.renewal
            && current.verdict_expires < now.saturating_add(VERDICT_MARGIN_SECS)
        {
            *current = renewal.begin(&self.transport).await?;
        }
        Ok(Arc::clone(&current.session))
    }

    /// Waits, or verifies the server that answers now, as `error` asks for.
    async fn before_another_attempt(
        &self,
        error: ClientError,
        session: &Arc<Session>,
        budget: &mut RetryBudget,
    ) -> Result<(), ClientError> {
        let Some(renewal) = self.renewal.as_ref().filter(|_| is_another_server(&error)) else {
            tokio::time::sleep(budget.after(error)?).await;
            return Ok(());
        };
        budget.spend_attempt(error)?;
        let mut current = self.session.lock().await;
        // Another task may have begun the new session already.
        if Arc::ptr_eq(&current.session, session) {
            *current = renewal.begin(&self.transport).await?;
        }
        Ok(())
    }

    async fn try_complete(
        &self,
        session: &Session,
        body: &Secret<String>,
        tap: &mut WireTap<'_>,
    ) -> Result<TextCompletion, ClientError> {
        let (pending, sealed) = session.seal(PATH, body.expose())?;
        tap(Wire::Sent(&sealed));
        let answer = self.transport.post(PATH, sealed, false, session.recipient()).await?;
        let Incoming::Whole(answer) = answer else {
            return Err(NotAuthentic::Malformed.into());
        };
        let answer = answer.whole().await?;
        tap(Wire::Received(&answer));
        open::reply(&pending, &answer)
    }

    async fn try_stream(
        &self,
        session: &Session,
        body: &Secret<String>,
        tap: &mut WireTap<'_>,
        on_text: &mut OnText<'_>,
        on_text_end: &mut dyn FnMut(),
    ) -> Result<StreamEnd, ClientError> {
        let (pending, sealed) = session.seal(PATH, body.expose())?;
        tap(Wire::Sent(&sealed));
        match self.transport.post(PATH, sealed, true, session.recipient()).await? {
            Incoming::Stream(body) => {
                read_frames(body, Frames::new(&pending), tap, on_text, on_text_end).await
            }
            // Refused before the stream began, so there is nothing to stream.
            Incoming::Whole(body) => {
                let body = body.whole().await?;
                tap(Wire::Received(&body));
                let answer = open::reply(&pending, &body)?;
                on_text(answer.text.expose())?;
                on_text_end();
                Ok(StreamEnd { finish: answer.finish, usage: answer.usage })
            }
        }
    }
}

impl Renewal {
    /// Verifies the server; only then is a DEK made, wrapped, and bound to it. The session's tag is there before its
    /// DEK, so that what is sealed comes to the replica that was verified.
    async fn begin(&self, transport: &Transport) -> Result<Current, ClientError> {
        let tag = SessionTag::random().map_err(|_| NO_RANDOMNESS)?;
        let verdict = self.verifier.verify(transport, Some(tag)).await?;
        let identity = verdict.trusted()?;
        let session = Session::start(self.keys.clone()).await?.bound_to(identity.server, tag);
        Ok(Current { session: Arc::new(session), verdict_expires: verdict.expires() })
    }
}

/// Whether the request came to another server than the verified one.
fn is_another_server(error: &ClientError) -> bool {
    let code = ErrorCode::ServerChanged.as_str();
    matches!(error, ClientError::Refused(refusal) if refusal.code.as_deref() == Some(code))
}

async fn read_frames(
    mut body: Body,
    mut frames: Frames<'_>,
    tap: &mut WireTap<'_>,
    on_text: &mut OnText<'_>,
    on_text_end: &mut dyn FnMut(),
) -> Result<StreamEnd, ClientError> {
    let mut reader = SseReader::default();
    let mut ended = false;
    while let Some(chunk) = body.chunk().await? {
        for token in reader.push(&chunk)? {
            tap(Wire::Received(token.as_bytes()));
            let (pieces, last) = frames.accept(&token)?;
            for piece in pieces {
                on_text(piece.expose())?;
            }
            if frames.text_has_ended() && !std::mem::replace(&mut ended, true) {
                on_text_end();
            }
            if last {
                return Ok(frames.finish()?);
            }
        }
    }
    Ok(frames.finish()?)
}
