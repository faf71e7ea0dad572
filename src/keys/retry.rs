//! Retries: one policy for STS, IAM and KMS.
//!
//! Google's clients retry too, but not what is needed here: not 429, not a timed-out attempt, not an answer with
//! a wrong checksum. Every call that goes through here is idempotent.

use std::time::Duration;

/// Attempts per call, the first included.
const ATTEMPTS: u32 = 4;

/// The longest pause between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Why an attempt failed, and whether another makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure<E> {
    /// The same call will fail the same way.
    Final(E),
    /// It may succeed in a moment.
    Transient(E),
}

impl<E> Failure<E> {
    fn into_error(self) -> E {
        match self {
            Self::Final(error) | Self::Transient(error) => error,
        }
    }
}

/// Calls `attempt` until it succeeds, fails permanently, or [`ATTEMPTS`] have been made.
pub(super) async fn retry<T, E, F>(first_delay: Duration, mut attempt: impl FnMut() -> F) -> Result<T, E>
where
    F: Future<Output = Result<T, Failure<E>>>,
{
    let mut delay = first_delay;
    for _ in 1..ATTEMPTS {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Transient(_)) => tokio::time::sleep(jittered(delay)).await,
        }
        delay = (delay * 2).min(MAX_DELAY);
    }
    attempt().await.map_err(Failure::into_error)
}

/// Half of `delay` to all of it, so that servers that failed together do not return together.
fn jittered(delay: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    delay.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn run(
        outcomes: &[Result<u8, Failure<&'static str>>],
    ) -> (Result<u8, &'static str>, usize, Duration) {
        let (mut calls, start) = (0, Instant::now());
        let result = retry(Duration::from_millis(100), || {
            calls += 1;
            std::future::ready(outcomes[calls - 1])
        })
        .await;
        (result, calls, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_tried_again_after_a_pause() {
        let down = Err(Failure::Transient("down"));
        let (result, calls, elapsed) = run(&[down, down, Ok(7)]).await;
        assert_eq!((result, calls), (Ok(7), 3));
        assert!((150..=302).contains(&elapsed.as_millis()), "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_final_failure_is_not_tried_again() {
        let (result, calls, elapsed) = run(&[Err(Failure::Final("no")), Ok(7)]).await;
        assert_eq!((result, calls, elapsed), (Err("no"), 1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_end() {
        let (result, calls, _) = run(&[Err(Failure::Transient("down")); 9]).await;
        assert_eq!((result, calls), (Err("down"), 4));
    }
}
