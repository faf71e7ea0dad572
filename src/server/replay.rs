//! Refuses envelopes that were seen before: each token is served once, within a window around its timestamp.
//!
//! Recorded traffic sent again would let an operator probe timing and burn the GPU. The set is bounded, and a full
//! one refuses: letting a token in unremembered would be worse. Pure: the caller brings the time.
//! Must not touch: clocks, HTTP.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::{ErrorCode, Token};

/// The tokens that were served within the window.
#[derive(Debug)]
pub(super) struct ReplayGuard {
    seen: Mutex<Seen>,
    window_secs: u64,
    capacity: usize,
}

/// A remembered token. Dropping it keeps it remembered.
#[derive(Debug)]
#[must_use = "a token that could not be served has to be released"]
pub(super) struct Remembered {
    guard: Arc<ReplayGuard>,
    entry: Entry,
}

/// Ordered by timestamp, so that what has left the window is at the front.
type Entry = (u64, [u8; 32]);

#[derive(Debug, Default)]
struct Seen {
    entries: BTreeSet<Entry>,
    /// Entries before this were dropped: should the clock step back, they still count as seen.
    floor: u64,
}

impl ReplayGuard {
    /// Remembers at most `capacity` tokens.
    pub(super) fn new(window_secs: u64, capacity: usize) -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), window_secs, capacity })
    }

    /// Remembers `token`, which must have been authenticated: anything else would let strangers fill the set.
    ///
    /// # Errors
    /// [`ErrorCode::Replayed`] if it was seen or lies outside the window around `now`,
    /// [`ErrorCode::ReplaySetFull`] if there is no room to remember it.
    pub(super) fn remember(self: &Arc<Self>, token: &Token, now: u64) -> Result<Remembered, ErrorCode> {
        if !token.is_fresh(now, self.window_secs) {
            return Err(ErrorCode::Replayed);
        }
        let entry = (token.timestamp(), *token.digest());
        let mut seen = self.lock();
        seen.forget_before(now.saturating_sub(self.window_secs));
        if entry.0 < seen.floor || seen.entries.contains(&entry) {
            return Err(ErrorCode::Replayed);
        }
        if seen.entries.len() >= self.capacity {
            return Err(ErrorCode::ReplaySetFull);
        }
        seen.entries.insert(entry);
        Ok(Remembered { guard: Arc::clone(self), entry })
    }

    /// How many tokens are remembered.
    pub(super) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // The set is consistent between any two of its operations, so a panic elsewhere does not spoil it.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    /// Forgets the token, so that the client may send the very same request again.
    pub(super) fn release(self) {
        self.guard.lock().entries.remove(&self.entry);
    }
}

impl Seen {
    fn forget_before(&mut self, oldest: u64) {
        if oldest > self.floor {
            self.floor = oldest;
            self.entries = self.entries.split_off(&(oldest, [0; 32]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dek;

    const WINDOW: u64 = 300;

    fn token() -> Token {
        Token::parse(Dek::generate().unwrap().seal(b"x").as_bytes()).unwrap()
    }

    #[test]
    fn a_token_is_served_once() {
        let (guard, token) = (ReplayGuard::new(WINDOW, 8), token());
        let now = token.timestamp();
        let first = guard.remember(&token, now).unwrap();
        assert_eq!(guard.remember(&token, now).unwrap_err(), ErrorCode::Replayed);
        drop(first);
        assert_eq!(guard.remember(&token, now + 1).unwrap_err(), ErrorCode::Replayed);
    }

    #[test]
    fn a_token_that_could_not_be_served_may_come_again() {
        let (guard, token) = (ReplayGuard::new(WINDOW, 8), token());
        guard.remember(&token, token.timestamp()).unwrap().release();
        assert!(guard.remember(&token, token.timestamp()).is_ok());
    }

    #[test]
    fn the_window_is_closed_on_both_sides() {
        let token = token();
        let sealed = token.timestamp();
        for (now, expected) in [
            (sealed - WINDOW, None),
            (sealed - WINDOW - 1, Some(ErrorCode::Replayed)),
            (sealed + WINDOW, None),
            (sealed + WINDOW + 1, Some(ErrorCode::Replayed)),
        ] {
            assert_eq!(ReplayGuard::new(WINDOW, 8).remember(&token, now).err(), expected, "{now}");
        }
    }

    #[test]
    fn a_full_set_refuses_until_entries_leave_the_window() {
        let guard = ReplayGuard::new(WINDOW, 1);
        let (first, second) = (token(), token());
        let now = first.timestamp();
        drop(guard.remember(&first, now).unwrap());
        assert_eq!(guard.remember(&second, now).unwrap_err(), ErrorCode::ReplaySetFull);
        assert_eq!(guard.len(), 1);
        // Both were sealed in the same second or the next, so the second is still fresh when the first has left.
        let later = (now + WINDOW + 1).min(second.timestamp() + WINDOW);
        guard.lock().forget_before(later - WINDOW + 1);
        assert_eq!(guard.len(), 0);
    }

    #[test]
    fn a_clock_that_steps_back_readmits_nothing() {
        let guard = ReplayGuard::new(WINDOW, 8);
        let token = token();
        let now = token.timestamp();
        drop(guard.remember(&token, now).unwrap());
        guard.lock().forget_before(now + 1);
        assert_eq!(guard.len(), 0);
        assert_eq!(guard.remember(&token, now).unwrap_err(), ErrorCode::Replayed);
    }
}
