//! Refuses envelopes that were seen before: each token is served once, within a window around its timestamp.
//!
//! Recorded traffic sent again would let an operator probe timing and burn the GPU. The wall clock decides only whether
//! a token is fresh, never whether it was seen: it may be wrong, step, and come back. Tokens are therefore remembered
//! beyond the window, until the room is needed, and then those go that are not fresh now. What remains of them are
//! ranges of timestamps, within which everything counts as seen.
//! Pure: the caller brings the time.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::protocol::Token;

/// The most ranges of timestamps that are kept. One grows while the clock is steady; each jump can add one.
const MAX_RANGES: usize = 32;

/// The tokens that were served.
#[derive(Debug)]
pub(crate) struct ReplayGuard {
    seen: Mutex<Seen>,
    window_secs: u64,
    capacity: usize,
}

/// A remembered token. Dropping it keeps it remembered.
#[derive(Debug)]
#[must_use = "a token that could not be served has to be released"]
pub(crate) struct Remembered {
    guard: Arc<ReplayGuard>,
    entry: Entry,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplayError {
    /// It was served, or may have been.
    #[error("the token was seen before")]
    Seen,
    /// All tokens that are remembered are fresh, and there is no room for another.
    #[error("no more tokens can be remembered")]
    Full,
    /// Its timestamp is too far from the clock.
    #[error("the token is not fresh")]
    NotFresh {
        /// The token's timestamp, in seconds since 1970.
        sealed: u64,
        /// The server's time, in seconds since 1970.
        now: u64,
        /// How far they may be apart, in seconds.
        window: u64,
    },
}

/// Timestamp and digest, in the order of timestamps.
type Entry = (u64, [u8; 32]);

#[derive(Debug, Default)]
struct Seen {
    entries: BTreeSet<Entry>,
    forgotten: Forgotten,
}

/// Timestamps of entries that had to make room: at most [`MAX_RANGES`] ranges, ends included.
#[derive(Debug, Default)]
struct Forgotten(Vec<(u64, u64)>);

impl ReplayGuard {
    /// Remembers at most `capacity` tokens.
    pub(crate) fn new(window_secs: u64, capacity: usize) -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), window_secs, capacity })
    }

    /// Remembers `token`, which must have been authenticated: otherwise unauthenticated clients could fill the set. `now` is
    /// the server's time in seconds since 1970.
    ///
    /// # Errors
    /// [`ReplayError`]
    pub(crate) fn remember(self: &Arc<Self>, token: &Token, now: u64) -> Result<Remembered, ReplayError> {
        let window = self.window_secs;
        if !token.is_fresh(now, window) {
            return Err(ReplayError::NotFresh { sealed: token.timestamp(), now, window });
        }
        let entry = (token.timestamp(), *token.digest());
        self.lock().admit(entry, now, window, self.capacity)?;
        Ok(Remembered { guard: Arc::clone(self), entry })
    }

    /// How many of the remembered tokens are fresh at `now`: what the capacity must hold.
    pub(crate) fn len(&self, now: u64) -> usize {
        let fresh = (now.saturating_sub(self.window_secs), [0; 32])
            ..=(now.saturating_add(self.window_secs), [u8::MAX; 32]);
        self.lock().entries.range(fresh).count()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // The set is consistent between any two of its operations, so a panic elsewhere does not spoil it.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remembered {
    /// Forgets the token, so that the client may send the very same request again.
    pub(crate) fn release(self) {
        self.guard.lock().entries.remove(&self.entry);
    }
}

impl Seen {
    /// Takes a fresh entry in, unless it was seen.
    fn admit(&mut self, entry: Entry, now: u64, window: u64, capacity: usize) -> Result<(), ReplayError> {
        if self.forgotten.may_hold(entry.0) || self.entries.contains(&entry) {
            return Err(ReplayError::Seen);
        }
        while self.entries.len() >= capacity {
            self.make_room(now, window)?;
        }
        self.entries.insert(entry);
        Ok(())
    }

    /// Forgets the entry with the oldest timestamp if its window is over, else the one with the newest if its window
    /// has not begun: a clock that was ahead for a while has left that behind.
    fn make_room(&mut self, now: u64, window: u64) -> Result<(), ReplayError> {
        let is_over = |entry: &&Entry| entry.0 < now.saturating_sub(window);
        let is_ahead = |entry: &&Entry| entry.0 > now.saturating_add(window);
        let oldest = self.entries.first().filter(is_over);
        let entry = *oldest.or_else(|| self.entries.last().filter(is_ahead)).ok_or(ReplayError::Full)?;
        self.entries.remove(&entry);
        self.forgotten.add(entry.0, window);
        Ok(())
    }
}

impl Forgotten {
    /// Whether an entry with this timestamp may have been forgotten.
    fn may_hold(&self, timestamp: u64) -> bool {
        self.0.iter().any(|&(first, last)| (first..=last).contains(&timestamp))
    }

    /// Widens a range that is at most `window` away, or else begins one. Two windows lie between what is over and what
    /// is ahead, so no range comes to span the present.
    fn add(&mut self, timestamp: u64, window: u64) {
        let is_near = |range: &&mut (u64, u64)| {
            (range.0.saturating_sub(window)..=range.1.saturating_add(window)).contains(&timestamp)
        };
        if let Some((first, last)) = self.0.iter_mut().find(is_near) {
            (*first, *last) = ((*first).min(timestamp), (*last).max(timestamp));
            return;
        }
        self.0.push((timestamp, timestamp));
        if self.0.len() > MAX_RANGES {
            // The two that end first become one: they are the furthest from what is sealed now.
            self.0.sort_unstable_by_key(|range| range.1);
            let (first, _) = self.0.remove(0);
            if let Some(next) = self.0.first_mut() {
                next.0 = next.0.min(first);
            }
        }
    }
}

#[cfg(test)]
mod tests;
