//! Completions through one session: sealed, sent, checked, opened.
//!
//! Must not touch: engine, model; the terminal.

use std::time::Duration;

use super::error::{ClientError, NotAuthentic, Refusal};
use super::input::Prompt;
use super::open::{self, Frames, StreamEnd};
use super::request::{self, CompletionOptions};
use super::session::Session;
use super::show_sealed::{Wire, WireTap};
use super::sse::SseReader;
use super::transport::{Body, Incoming, Origin, Transport};
use crate::keys::WrapConfig;
use crate::protocol::openai::{FinishReason, Usage};
use crate::secret::Secret;

const PATH: &str = "/v1/completions";
/// How often one request is tried at most.
const MAX_ATTEMPTS: u32 = 4;
/// How long all waits between the attempts may be together.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// A server and the session that is held with it.
#[derive(Debug)]
pub struct Client {
    session: Session,
    transport: Transport,
    max_attempts: u32,
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
        Ok(Self { session, transport: Transport::new(server.clone())?, max_attempts: MAX_ATTEMPTS })
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
            match self.try_complete(&body, tap).await {
                Err(error) => tokio::time::sleep(patience.after(error)?).await,
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
            match self.try_stream(&body, tap, &mut pass_on).await {
                Ok(end) => return Ok((end.finish, end.usage)),
                Err(error) if begun => return Err(error),
                Err(error) => tokio::time::sleep(patience.after(error)?).await,
            }
        }
    }

    async fn try_complete(
        &self,
        body: &Secret<String>,
        tap: &mut WireTap<'_>,
    ) -> Result<Answer, ClientError> {
        let (id, sealed) = self.session.seal(PATH, body.expose())?;
        tap(Wire::Sent(&sealed));
        let Incoming::Whole(answer) = self.transport.post(PATH, sealed, false).await? else {
            return Err(NotAuthentic::Malformed.into());
        };
        let answer = answer.whole().await?;
        tap(Wire::Received(&answer));
        open::reply(&self.session, id, &answer)
    }

    async fn try_stream(
        &self,
        body: &Secret<String>,
        tap: &mut WireTap<'_>,
        on_text: &mut OnText<'_>,
    ) -> Result<StreamEnd, ClientError> {
        let (id, sealed) = self.session.seal(PATH, body.expose())?;
        tap(Wire::Sent(&sealed));
        match self.transport.post(PATH, sealed, true).await? {
            Incoming::Stream(body) => read_frames(body, Frames::new(&self.session, id), tap, on_text).await,
            // Refused before the stream began, so there is nothing to stream.
            Incoming::Whole(body) => {
                let body = body.whole().await?;
                tap(Wire::Received(&body));
                let answer = open::reply(&self.session, id, &body)?;
                on_text(answer.text.expose())?;
                Ok(StreamEnd { finish: answer.finish, usage: answer.usage })
            }
        }
    }
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
struct Patience {
    attempts_left: u32,
    waited: Duration,
}

impl Patience {
    fn of(attempts: u32) -> Self {
        Self { attempts_left: attempts, waited: Duration::ZERO }
    }

    /// How long to wait before the next attempt after `error`.
    ///
    /// # Errors
    /// `error` itself, if a repetition is not safe, cannot help, or would take too long.
    fn after(&mut self, error: ClientError) -> Result<Duration, ClientError> {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        match &error {
            ClientError::Refused(Refusal { retry_after: Some(wait), .. })
                if self.attempts_left > 0 && self.waited + *wait <= MAX_WAIT =>
            {
                self.waited += *wait;
                Ok(*wait)
            }
            _ => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, retry_after: Option<&str>) -> ClientError {
        Refusal::outside(status, b"", retry_after).into()
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
