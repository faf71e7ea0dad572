//! When a request is sent again: a server that is busy, as often and as long as it asks, within bounds.

use std::time::Duration;

use super::error::{ClientError, Refusal};

/// How often one request is tried at most.
pub(super) const MAX_ATTEMPTS: u32 = 4;
/// How long all waits between the attempts may be together.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Attempts and waiting time that are left of one request.
#[derive(Debug)]
pub(super) struct RetryBudget {
    attempts_left: u32,
    waited: Duration,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::of(MAX_ATTEMPTS)
    }
}

impl RetryBudget {
    pub(super) fn of(attempts: u32) -> Self {
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
    pub(super) fn spend_attempt(&mut self, error: ClientError) -> Result<ClientError, ClientError> {
        self.attempts_left = self.attempts_left.saturating_sub(1);
        if self.attempts_left > 0 { Ok(error) } else { Err(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::NotAuthentic;
    use super::*;

    fn refusal(status: u16, retry_after: Option<&str>) -> ClientError {
        Refusal::outside(status, b"", retry_after, 0).into()
    }

    #[test]
    fn a_busy_server_is_tried_again_as_it_asks_and_not_for_ever() {
        let mut budget = RetryBudget::of(MAX_ATTEMPTS);
        for secs in [1, 2, 3] {
            let wait = budget.after(refusal(429, Some(&secs.to_string()))).unwrap();
            assert_eq!(wait, Duration::from_secs(secs));
        }
        assert!(budget.after(refusal(429, Some("1"))).is_err());
    }

    #[test]
    fn a_long_wait_is_not_begun() {
        assert!(RetryBudget::of(MAX_ATTEMPTS).after(refusal(503, Some("11"))).is_err());
        let mut budget = RetryBudget::of(MAX_ATTEMPTS);
        assert!(budget.after(refusal(503, Some("6"))).is_ok());
        assert!(budget.after(refusal(503, Some("6"))).is_err());
        assert!(RetryBudget::of(1).after(refusal(503, Some("1"))).is_err());
    }

    #[test]
    fn only_what_a_wait_can_heal_is_repeated() {
        for status in [400, 409, 413, 500, 502, 504] {
            assert!(RetryBudget::of(MAX_ATTEMPTS).after(refusal(status, Some("1"))).is_err(), "{status}");
        }
        // The request may have been served: it is not for this tool to ask twice.
        assert!(RetryBudget::of(MAX_ATTEMPTS).after(ClientError::Unreachable("")).is_err());
        assert!(RetryBudget::of(MAX_ATTEMPTS).after(NotAuthentic::Cut.into()).is_err());
    }
}
