//! Completions through a session: sealed, sent, checked, opened.
//!
//! With a verifier, a session is held with one verified server only, and begins anew with another.
//! Must not touch: engine, model; the terminal.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;

use super::error::{ClientError, NotAuthentic, Refusal};
use super::input::Prompt;
use super::open::{self, Frames, StreamEnd};
use super::request::{self, CompletionOptions};
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
/// How often one request is tried at most.
const MAX_ATTEMPTS: u32 = 4;
/// How long all waits between the attempts may be together.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// How long before its token expires a verdict is no longer one: a request must arrive yet.
const VERDICT_MARGIN_SECS: u64 = 30;

/// A server and the session that is held with it.
#[derive(Debug)]
pub struct Client {
    session: Mutex<Current>,
    /// How sessions are begun; without, there is the one that the client was made with.
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

/// A completion.
#[derive(Debug)]
pub struct Answer {
    /// The generated text, without the prompt.
    pub text: Secret<String>,
    /// Why it ends.
    pub finish: FinishReason,
    /// Counts, if the server gave them.
    pub usage: Option<Usage>,
}

/// What gets the pieces of a streamed text; its error ends the stream.
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
    ) -> Result<Answer, ClientError> {
        let body = request::body(prompt, options, false)?;
        let mut patience = Patience::of(self.max_attempts);
        loop {
            let session = self.session().await?;
            match self.try_complete(&session, &body, tap).await {
                Err(error) => self.before_another_attempt(error, &session, &mut patience).await?,
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
        let body = request::body(prompt, options, true)?;
        let mut patience = Patience::of(self.max_attempts);
        let mut begun = false;
        loop {
            let mut pass_on = |text: &str| {
                begun |= !text.is_empty();
                on_text(text)
            };
            let session = self.session().await?;
            match self.try_stream(&session, &body, tap, &mut pass_on).await {
                Ok(end) => return Ok((end.finish, end.usage)),
                Err(error) if begun => return Err(error),
                Err(error) => self.before_another_attempt(error, &session, &mut patience).await?,
            }
        }
    }

    /// The session, of a verdict that still is one.
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
        patience: &mut Patience,
    ) -> Result<(), ClientError> {
        let Some(renewal) = self.renewal.as_ref().filter(|_| is_another_server(&error)) else {
            tokio::time::sleep(patience.after(error)?).await;
            return Ok(());
        };
        patience.spend_attempt(error)?;
        let mut current = self.session.lock().await;
        // Somebody else may have begun the new one already.
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
    ) -> Result<Answer, ClientError> {
        let (asked, sealed) = session.seal(PATH, body.expose())?;
        tap(Wire::Sent(&sealed));
        let answer = self.transport.post(PATH, sealed, false, session.recipient()).await?;
        let Incoming::Whole(answer) = answer else {
            return Err(NotAuthentic::Malformed.into());
        };
        let answer = answer.whole().await?;
        tap(Wire::Received(&answer));
        open::reply(&asked, &answer)
    }

    async fn try_stream(
        &self,
        session: &Session,
        body: &Secret<String>,
        tap: &mut WireTap<'_>,
        on_text: &mut OnText<'_>,
    ) -> Result<StreamEnd, ClientError> {
        let (asked, sealed) = session.seal(PATH, body.expose())?;
        tap(Wire::Sent(&sealed));
        match self.transport.post(PATH, sealed, true, session.recipient()).await? {
            Incoming::Stream(body) => read_frames(body, Frames::new(&asked), tap, on_text).await,
            // Refused before the stream began, so there is nothing to stream.
            Incoming::Whole(body) => {
                let body = body.whole().await?;
                tap(Wire::Received(&body));
                let answer = open::reply(&asked, &body)?;
                on_text(answer.text.expose())?;
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
) -> Result<StreamEnd, ClientError> {
    let mut reader = SseReader::default();
    while let Some(chunk) = body.chunk().await? {
        for token in reader.push(&chunk)? {
            tap(Wire::Received(token.as_bytes()));
            let (pieces, last) = frames.accept(&token)?;
            for piece in pieces {
                on_text(piece.expose())?;
            }
            if last {
                return Ok(frames.finish()?);
            }
        }
    }
    Ok(frames.finish()?)
}

/// How much longer a busy server is waited for.
#[derive(Debug)]
pub(super) struct Patience {
    attempts_left: u32,
    waited: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self::of(MAX_ATTEMPTS)
    }
}

impl Patience {
    fn of(attempts: u32) -> Self {
        Self { attempts_left: attempts, waited: Duration::ZERO }
    }

    /// How long to wait before the next attempt after `error`.
    ///
    /// # Errors
    /// `error` itself, if a repetition is not safe, cannot help, or would take too long.
    pub(super) fn after(&mut self, error: ClientError) -> Result<Duration, ClientError> {
        let error = self.spend_attempt(error)?;
        match &error {
            ClientError::Refused(Refusal { retry_after: Some(wait), .. })
                if self.waited + *wait <= MAX_WAIT =>
            {
                self.waited += *wait;
                Ok(*wait)
            }
            _ => Err(error),
        }
    }

    /// Counts an attempt that ended with `error`, which is given back if another one may follow.
    ///
    /// # Errors
    /// `error` itself, if that was the last.
    fn spend_attempt(&mut self, error: ClientError) -> Result<ClientError, ClientError> {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        if self.attempts_left > 0 { Ok(error) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, retry_after: Option<&str>) -> ClientError {
        Refusal::outside(status, b"", retry_after, 0).into()
    }

    #[test]
    fn a_busy_server_is_tried_again_as_it_asks_and_not_for_ever() {
        let mut patience = Patience::of(MAX_ATTEMPTS);
        for secs in [1, 2, 3] {
            let wait = patience.after(refusal(429, Some(&secs.to_string()))).unwrap();
            assert_eq!(wait, Duration::from_secs(secs));
        }
        assert!(patience.after(refusal(429, Some("1"))).is_err());
    }

    #[test]
    fn a_long_wait_is_not_begun() {
        assert!(Patience::of(MAX_ATTEMPTS).after(refusal(503, Some("11"))).is_err());
        let mut patience = Patience::of(MAX_ATTEMPTS);
        assert!(patience.after(refusal(503, Some("6"))).is_ok());
        assert!(patience.after(refusal(503, Some("6"))).is_err());
        assert!(Patience::of(1).after(refusal(503, Some("1"))).is_err());
    }

    #[test]
    fn only_what_a_wait_can_heal_is_repeated() {
        for status in [400, 409, 413, 500, 502, 504] {
            assert!(Patience::of(MAX_ATTEMPTS).after(refusal(status, Some("1"))).is_err(), "{status}");
        }
        // The request may have been served: it is not for this tool to ask twice.
        assert!(Patience::of(MAX_ATTEMPTS).after(ClientError::Unreachable("")).is_err());
        assert!(Patience::of(MAX_ATTEMPTS).after(NotAuthentic::Cut.into()).is_err());
    }
}
