//! A token bucket: a bound on calls per minute, some of them at once.
//!
//! Allowed modules: none.
//! Forbidden: axum.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const MINUTE: Duration = Duration::from_secs(60);

/// A bound on calls for each minute, some of them at once.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_minute: f64,
    burst: f64,
    state: Mutex<(f64, Instant)>,
}

impl RateLimit {
    /// `per_minute` calls, at most `burst` of them at once. Must be made inside a tokio runtime.
    pub(crate) fn new(per_minute: u32, burst: u32) -> Self {
        let burst = f64::from(burst);
        Self { per_minute: f64::from(per_minute), burst, state: Mutex::new((burst, Instant::now())) }
    }

    /// Whether one more call may be made now; it is counted if so.
    pub(crate) fn take(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (left, at) = *state;
        let now = Instant::now();
        let gained = (now - at).as_secs_f64() * self.per_minute / MINUTE.as_secs_f64();
        let left = (left + gained).min(self.burst);
        let may = left >= 1.0;
        *state = (if may { left - 1.0 } else { left }, now);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_allowed_and_then_the_rate() {
        let rate = RateLimit::new(60, 3);
        let count = || (0..10).filter(|_| rate.take()).count();
        assert_eq!((count(), count()), (3, 0));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(count(), 2);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(count(), 3, "unused calls are not saved up");
    }
}
