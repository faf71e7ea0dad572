//! How many connections to the server wait in the HTTP client's pool, as far as can be told from outside.
//!
//! A request that is cancelled takes its HTTP/1.1 connection with it, so the next one needs another that is open
//! already.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An older connection is not counted: the server closes those that wait for a request too long.
const MAX_AGE: Duration = Duration::from_secs(8);

/// The one that the next request takes, and one more for when it is cancelled.
const WANTED: usize = 2;

/// The connections that wait for a request, by when they began to.
#[derive(Debug, Default)]
pub(super) struct Idle {
    since: Mutex<Vec<Instant>>,
    preparing: AtomicBool,
}

/// A connection is being opened. Dropping this ends the claim.
pub(super) struct Preparing<'a>(&'a AtomicBool);

impl Idle {
    /// A request takes the connection that was used last, if there is one.
    pub(super) fn take(&self) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).pop();
    }

    /// An answer was read to its end, so its connection waits for the next request.
    pub(super) fn give(&self) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    }

    /// The claim to open a connection, if too few wait and none is being opened.
    pub(super) fn prepare(&self) -> Option<Preparing<'_>> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|idle| idle.elapsed() < MAX_AGE);
        let wanted = since.len() < WANTED && !self.preparing.swap(true, Ordering::Relaxed);
        wanted.then_some(Preparing(&self.preparing))
    }
}

impl Drop for Preparing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_prepared_only_if_too_few_wait_and_once() {
        let idle = Idle::default();
        idle.give();
        let preparing = idle.prepare().unwrap();
        assert!(idle.prepare().is_none(), "one is on its way");
        idle.give();
        drop(preparing);
        assert!(idle.prepare().is_none(), "enough wait");
        idle.take();
        assert!(idle.prepare().is_some());
    }
}
