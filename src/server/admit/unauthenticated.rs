//! Unauthenticated requests are counted, and logged together at most once a minute: anyone who reaches the port can send
//! any number of them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::{self, Event};

/// At least this much lies between two events.
const PAUSE: Duration = Duration::from_secs(60);

/// How many ended since the last event.
#[derive(Debug, Default)]
pub(crate) struct Unauthenticated(Mutex<Count>);

#[derive(Debug, Default)]
struct Count {
    requests: u64,
    reported: Option<Instant>,
}

impl Unauthenticated {
    /// One more has ended. The first is logged at once, the others at most once a minute.
    pub(crate) fn ended(&self) {
        if let Some(requests) = self.count(Instant::now()) {
            telemetry::emit(Event::RequestsUnauthenticated { requests });
        }
    }

    /// Logs those that are not in an event yet.
    pub(crate) fn report(&self) {
        let requests = std::mem::take(&mut self.lock().requests);
        if requests > 0 {
            telemetry::emit(Event::RequestsUnauthenticated { requests });
        }
    }

    fn count(&self, now: Instant) -> Option<u64> {
        let mut count = self.lock();
        count.requests += 1;
        if count.reported.is_some_and(|reported| now < reported + PAUSE) {
            return None;
        }
        count.reported = Some(now);
        Some(std::mem::take(&mut count.requests))
    }

    fn lock(&self) -> MutexGuard<'_, Count> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_event_a_minute_and_none_is_left_out() {
        let (seen, began) = (Unauthenticated::default(), Instant::now());
        assert_eq!(seen.count(began), Some(1));
        assert!((0..1000).all(|_| seen.count(began + PAUSE / 2).is_none()));
        assert_eq!(seen.count(began + PAUSE), Some(1001));
        assert_eq!(seen.count(began + PAUSE), None);
    }
}
