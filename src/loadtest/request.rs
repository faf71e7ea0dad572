//! One request as its client sees it: when its text came, or the error.
//!
//! Times count from when a request was due, not from when it was sent: a generator that is held up must not
//! make the server look better.

use std::time::Duration;

use tokio::time::Instant;

use crate::client::{Client, ClientError, CompletionOptions, Prompt};
use crate::protocol::openai::Usage;

/// The options of every request.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) new_tokens: usize,
    pub(super) streamed: bool,
    pub(super) timeout: Duration,
}

/// The result of one request.
#[derive(Debug)]
pub(super) struct Sample {
    /// The answer's times, or the code of the error.
    pub(super) outcome: Result<Times, String>,
}

/// When the parts of an answer came.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// Until the first text; none if it was not streamed, or is empty.
    pub(super) first_text: Option<Duration>,
    /// Between texts that follow each other.
    pub(super) gaps: Vec<Duration>,
    /// Until the text had ended; none if it was not streamed.
    pub(super) text_end: Option<Duration>,
    /// Until the end.
    pub(super) whole: Duration,
    /// What the server counted.
    pub(super) usage: Option<Usage>,
}

impl Times {
    /// How long a new token took on average, the first one apart; none of fewer than two.
    pub(super) fn per_token(&self) -> Option<Duration> {
        let rest =
            u32::try_from(self.usage?.completion_tokens.checked_sub(1)?).ok().filter(|&rest| rest > 0)?;
        Some(self.gaps.iter().sum::<Duration>() / rest).filter(|_| self.first_text.is_some())
    }
}

/// Sends one request, and calls `on_text_end` when the text has ended. A failure is part of the sample.
pub(super) async fn send(
    client: &Client,
    prompt: &Prompt,
    manner: &Manner,
    due: Instant,
    on_text_end: &dyn Fn(),
) -> Sample {
    let times = times(client, prompt, manner, due, on_text_end);
    let answer = tokio::time::timeout_at(due + manner.timeout, times).await;
    let outcome = match answer {
        Ok(Ok(times)) => Ok(times),
        Ok(Err(error)) => Err(code(&error)),
        Err(_) => Err("timed_out".to_owned()),
    };
    Sample { outcome }
}

async fn times(
    client: &Client,
    prompt: &Prompt,
    manner: &Manner,
    due: Instant,
    on_text_end: &dyn Fn(),
) -> Result<Times, ClientError> {
    let options = CompletionOptions { max_tokens: Some(manner.new_tokens), ..CompletionOptions::default() };
    if !manner.streamed {
        let answer = client.complete(prompt, &options, &mut |_| ()).await?;
        return Ok(Times { whole: due.elapsed(), usage: answer.usage, ..Times::default() });
    }
    let mut times = Times::default();
    let mut last: Option<Instant> = None;
    let mut on_text = |text: &str| {
        if !text.is_empty() {
            let now = Instant::now();
            match last.replace(now) {
                None => times.first_text = Some(now - due),
                Some(last) => times.gaps.push(now - last),
            }
        }
        Ok(())
    };
    let mut text_end = None;
    let mut ended = || {
        text_end = Some(due.elapsed());
        on_text_end();
    };
    let (_, usage) = client.stream_with_end(prompt, &options, &mut |_| (), &mut on_text, &mut ended).await?;
    Ok(Times { whole: due.elapsed(), text_end, usage, ..times })
}

/// What an error is counted under: the protocol's code where there is one.
fn code(error: &ClientError) -> String {
    match error {
        ClientError::Refused(refusal) => {
            refusal.code.clone().unwrap_or_else(|| format!("status_{}", refusal.status))
        }
        ClientError::NotAuthentic(_) => "not_authentic".to_owned(),
        ClientError::TimedOut { .. } => "timed_out".to_owned(),
        ClientError::Unreachable(_) => "unreachable".to_owned(),
        _ => "internal".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_takes_what_is_between_the_first_text_and_the_last() {
        let mut times = Times {
            first_text: Some(Duration::from_millis(70)),
            gaps: vec![Duration::from_millis(10), Duration::from_millis(20)],
            text_end: Some(Duration::from_millis(100)),
            whole: Duration::from_millis(100),
            usage: Some(Usage::new(5, 4)),
        };
        assert_eq!(times.per_token(), Some(Duration::from_millis(10)));
        times.usage = Some(Usage::new(5, 1));
        assert_eq!(times.per_token(), None);
        times.usage = None;
        assert_eq!(times.per_token(), None);
    }

    #[test]
    fn errors_are_told_apart_by_the_code_of_the_protocol() {
        for (error, expected) in [
            (ClientError::Unreachable("no"), "unreachable"),
            (ClientError::NotAuthentic(crate::client::NotAuthentic::Cut), "not_authentic"),
            (ClientError::Internal("no"), "internal"),
        ] {
            assert_eq!(code(&error), expected);
        }
    }
}
