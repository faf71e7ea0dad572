//! How long streams last on this server: what it has learned from the streams before.
//!
//! A stream has a number of frames that follows from `max_tokens`. Where the model needs longer than these frames take, a stream
//! that ended with its own text would show how long that took, and with it the length of the prompt, of the answer, or whether a
//! prefix was cached. So all streams of a class last as long as the slow ones among them did in the last half hour. Text still
//! leaves as soon as its slot has come: it is only the fillers behind it that become more.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The fewest frames of a shaped stream: each costs the server, the network and the client something, and most say nothing.
pub(super) const FEWEST_FRAMES: u64 = 8;
/// Of requests for more tokens, streams have a multiple of this number: a stream holds its connection until its last
/// frame, and a server that drains waits for it.
const MOST_FRAMES: u64 = 128;
/// Streams that need more frames do not lengthen those after them further, for the same reason.
const LONGEST_FRAMES: u64 = 256;
/// Tokens that a model is expected to generate within a slot.
const TOKENS_PER_FRAME: u64 = 4;
/// Streams become shorter again when for this long none needed their length.
const HOLD: Duration = Duration::from_secs(30 * 60);

/// The length of streams, by class. A class is the number of frames that follows from the tokens of a request.
#[derive(Debug)]
pub(super) struct Pace {
    classes: Mutex<[Class; CLASSES]>,
}

/// A class for each power of two between the fewest and the most frames.
const CLASSES: usize = (MOST_FRAMES / FEWEST_FRAMES).ilog2() as usize + 1;

#[derive(Clone, Copy, Debug)]
struct Class {
    /// How often the number of frames is doubled.
    doublings: u32,
    /// When a stream last needed that, or when it became less.
    since: Instant,
}

/// The class of a request for `tokens` tokens: its number of frames.
pub(super) fn class(tokens: usize) -> u64 {
    let frames = (tokens as u64).div_ceil(TOKENS_PER_FRAME).clamp(FEWEST_FRAMES, MOST_FRAMES);
    frames.next_power_of_two()
}

impl Pace {
    /// Nothing has been learned yet.
    pub(super) fn new() -> Self {
        Self { classes: Mutex::new([Class { doublings: 0, since: Instant::now() }; CLASSES]) }
    }

    /// How many frames a stream of `class` has that begins `now`.
    pub(super) fn frames(&self, class: u64, now: Instant) -> u64 {
        self.of(class, |pace| {
            if pace.doublings > 0 && now.saturating_duration_since(pace.since) >= HOLD {
                *pace = Class { doublings: pace.doublings - 1, since: now };
            }
            class << pace.doublings
        })
    }

    /// Takes in that the text of a stream of `class` was complete with its frame number `sent`, counted from 1.
    pub(super) fn observe(&self, class: u64, sent: u64, now: Instant) {
        let needed = sent.clamp(class, LONGEST_FRAMES).div_ceil(class).next_power_of_two().ilog2();
        self.of(class, |pace| {
            if needed >= pace.doublings {
                *pace = Class { doublings: needed, since: now };
            }
        });
    }

    fn of<T>(&self, class: u64, task: impl FnOnce(&mut Class) -> T) -> T {
        let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (class / FEWEST_FRAMES).max(1).ilog2() as usize;
        let last = CLASSES - 1;
        task(&mut classes[number.min(last)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_follows_from_the_tokens_that_were_asked_for() {
        for (tokens, frames) in
            [(0, 8), (1, 8), (32, 8), (33, 16), (64, 16), (128, 32), (256, 64), (257, 128), (usize::MAX, 128)]
        {
            assert_eq!(class(tokens), frames, "{tokens}");
        }
        assert_eq!(CLASSES, 5);
    }

    #[test]
    fn streams_last_as_long_as_the_slow_ones_of_their_class_did() {
        let (pace, now) = (Pace::new(), Instant::now());
        let frames = || [8, 16, 128].map(|class| pace.frames(class, now));
        assert_eq!(frames(), [8, 16, 128]);
        for (class, sent, expected) in [
            (8, 1, [8, 16, 128]),
            (8, 8, [8, 16, 128]),
            (8, 9, [16, 16, 128]),
            (16, 33, [16, 64, 128]),
            (8, 33, [64, 64, 128]),
            // A fast one shortens nothing.
            (8, 2, [64, 64, 128]),
            (8, 100_000, [256, 64, 128]),
            (128, u64::MAX, [256, 64, 256]),
        ] {
            pace.observe(class, sent, now);
            assert_eq!(frames(), expected, "{class}, {sent}");
        }
    }

    #[test]
    fn streams_become_shorter_step_by_step_when_none_needs_their_length() {
        let (pace, start) = (Pace::new(), Instant::now());
        pace.observe(32, 128, start);
        let almost = start + HOLD - Duration::from_millis(1);
        assert_eq!(pace.frames(32, almost), 128);
        pace.observe(32, 128, almost);
        assert_eq!(pace.frames(32, start + HOLD), 128);
        assert_eq!(pace.frames(32, almost + HOLD), 64);
        assert_eq!(pace.frames(32, almost + HOLD), 64);
        pace.observe(32, 64, almost + HOLD * 3 / 2);
        assert_eq!(pace.frames(32, almost + HOLD * 2), 64);
        assert_eq!(pace.frames(32, almost + HOLD * 5 / 2), 32);
        assert_eq!(pace.frames(32, almost + HOLD * 9), 32);
    }
}
