//! What the network shows of an answer: when it leaves, in how many frames, and how large it is.
//!
//! The pace of a model's tokens tells an observer of the network what a text is about ("What Was Your Prompt?", USENIX Security
//! 2024; "Whisper Leak", 2025). With [`Shaping::PaceAndLength`] departures follow from the request and from random numbers:
//! time is divided into slots that begin a fixed time after the request arrived, and one frame leaves within each, at a
//! random point of it. What the model does in between changes nothing. A frame is sealed ahead of its departure. The jitter
//! is as wide as a slot, because a thread that is woken while the model computes runs up to some milliseconds late, and an
//! observer averages over all frames of a stream.
//!
//! How many frames there are follows from `max_tokens`, and on a slow model from the streams before: see [`Pace`].

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::{FEWEST_FRAMES, Pace, class};
use super::timer::Timer;

/// A frame is sealed this long before it leaves, or a fifth of a slot.
const AHEAD: Duration = Duration::from_millis(5);
/// Whole answers leave in the last slot of this many, or of a multiple: no stream before them tells how long they take.
const WHOLE_SLOTS: u64 = 32;
/// The first slot begins later by one slot for as many bytes of a request: it takes some of that to open and tokenize them.
const BYTES_PER_SLOT: usize = 64 * 1024;

/// What the network may see of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shaping {
    /// Everything: a frame leaves with each step of the model.
    Off,
    /// Neither the pace of the model nor the length of the answer. A slot lasts this long.
    PaceAndLength(Duration),
}

impl Shaping {
    /// A slot unless configured: hardly perceptible, and long enough for a step of most models.
    pub const INTERVAL: Duration = Duration::from_millis(50);
}

/// A mode's name, without the length of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapingMode {
    /// [`Shaping::Off`]
    Off,
    /// [`Shaping::PaceAndLength`]
    PaceAndLength,
}

/// Not the name of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("traffic is shaped by pace-and-length or off")]
pub struct UnknownShaping;

/// What is known of a request before anything is generated: all that departures depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// When its last byte was read.
    pub(crate) arrived: Instant,
    /// How long its body is, in bytes: the network shows that.
    pub(crate) bytes: usize,
    /// Maximum of new tokens of all answers together, or `pad_tokens` if that is more.
    pub(crate) tokens: usize,
}

/// When the parts of one answer leave. Without a schedule, as soon as they are ready.
#[derive(Debug)]
pub(crate) struct Pacer {
    schedule: Option<(Schedule, Timer)>,
    sent: u64,
    /// Told when the text is complete, once.
    pace: Option<Arc<Pace>>,
}

/// When a frame is sealed, and when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    /// What is known by then is in the frame.
    pub(crate) seal: Instant,
    /// When the frame is handed to the connection.
    pub(crate) at: Instant,
}

/// The slots of one answer.
#[derive(Debug)]
struct Schedule {
    /// When the first slot begins.
    start: Instant,
    /// How long each lasts.
    slot: Duration,
    /// The number of the slot that the next frame leaves in.
    next: u64,
    /// How many frames follow from the request.
    class: u64,
    /// How many frames a stream has, or a multiple.
    frames: u64,
}

impl ShapingMode {
    /// The mode with slots of this length, if it has any.
    pub fn with_interval(self, interval: Duration) -> Shaping {
        match self {
            Self::Off => Shaping::Off,
            Self::PaceAndLength => Shaping::PaceAndLength(interval),
        }
    }
}

impl FromStr for ShapingMode {
    type Err = UnknownShaping;

    fn from_str(name: &str) -> Result<Self, UnknownShaping> {
        match name {
            "off" => Ok(Self::Off),
            "pace-and-length" => Ok(Self::PaceAndLength),
            _ => Err(UnknownShaping),
        }
    }
}

impl Pacer {
    /// Departures of the answer to a request, on a server that has learned `pace`.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub(crate) fn new(shaping: Shaping, facts: Facts, pace: &Arc<Pace>) -> io::Result<Self> {
        let schedule = match shaping {
            Shaping::Off => None,
            Shaping::PaceAndLength(slot) => {
                let class = class(facts.tokens);
                let schedule = Schedule::new(slot, facts, class, pace.frames(class, Instant::now()));
                Some((schedule, Timer::new()?))
            }
        };
        Ok(Self { schedule, sent: 0, pace: Some(Arc::clone(pace)) })
    }

    /// When the next frame leaves; `None` as soon as it is ready.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub(crate) fn next_departure(&mut self) -> Result<Option<Departure>, getrandom::Error> {
        let Some((schedule, _)) = &mut self.schedule else { return Ok(None) };
        Ok(Some(schedule.next_departure(Instant::now(), random()?)))
    }

    /// When a whole answer leaves that is ready now; `None` at once.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub(crate) fn release(&self) -> Result<Option<Instant>, getrandom::Error> {
        let Some((schedule, _)) = &self.schedule else { return Ok(None) };
        Ok(Some(schedule.release(Instant::now(), random()?)))
    }

    /// Waits for a departure.
    ///
    /// # Errors
    /// The timer failed.
    pub(crate) async fn wait_until(&self, at: Instant) -> io::Result<()> {
        match &self.schedule {
            Some((_, timer)) => timer.wait_until(at).await,
            None => Ok(()),
        }
    }

    /// Counts the frame that leaves next. Returns whether it may be the last one. A server that drains ends a
    /// stream after a multiple of [`FEWEST_FRAMES`].
    pub(crate) fn count(&mut self, draining: bool) -> bool {
        self.sent += 1;
        let Some((Schedule { frames, .. }, _)) = self.schedule else { return true };
        self.sent.is_multiple_of(if draining { FEWEST_FRAMES } else { frames })
    }

    /// Records that the text was complete with the frame that was counted last.
    pub(crate) fn text_ended(&mut self) {
        if let (Some(pace), Some((Schedule { class, .. }, _))) = (self.pace.take(), &self.schedule) {
            pace.observe(*class, self.sent, Instant::now());
        }
    }
}

impl Schedule {
    fn new(slot: Duration, facts: Facts, class: u64, frames: u64) -> Self {
        // Half a slot for parsing, opening and tokenizing what is short.
        let wait = slot / 2 + times(slot, (facts.bytes / BYTES_PER_SLOT) as u64);
        Self { start: facts.arrived + wait, slot, next: 0, class, frames }
    }

    /// A departure within the next slot; `random` is where in it. Slots that are over are left out: a client that takes
    /// frames slowly gets no burst afterwards.
    fn next_departure(&mut self, now: Instant, random: u64) -> Departure {
        let over = now.saturating_duration_since(self.start).as_nanos() / self.slot.as_nanos().max(1);
        let number = self.next.max(u64::try_from(over).unwrap_or(u64::MAX));
        self.next = number.saturating_add(1);
        let at = self.start + times(self.slot, number) + share(self.slot, random);
        Departure { seal: at - AHEAD.min(self.slot / 5), at }
    }

    /// A departure within the last slot of the time of its class, which is [`WHOLE_SLOTS`] or more, or of a multiple of that which
    /// has not begun. It does not wait as long as slow answers took before: a client waits for it.
    fn release(&self, now: Instant, random: u64) -> Instant {
        let whole = times(self.slot, self.class.max(WHOLE_SLOTS));
        let past = now.saturating_duration_since(self.start) + self.slot;
        let wholes = past.as_nanos().div_ceil(whole.as_nanos().max(1)).max(1);
        let end = times(whole, u64::try_from(wholes).unwrap_or(u64::MAX));
        self.start + (end - self.slot) + share(self.slot, random)
    }
}

fn random() -> Result<u64, getrandom::Error> {
    getrandom::u64()
}

fn times(slot: Duration, count: u64) -> Duration {
    slot.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The part of a slot that `random` is of 2^64.
fn share(slot: Duration, random: u64) -> Duration {
    let nanos = (slot.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Duration = Duration::from_millis(50);

    fn schedule(bytes: usize, tokens: usize) -> (Instant, Schedule) {
        let (arrived, class) = (Instant::now(), class(tokens));
        (arrived, Schedule::new(SLOT, Facts { arrived, bytes, tokens }, class, class))
    }

    fn ends(shaping: Shaping, tokens: usize, draining: bool) -> Vec<u64> {
        let facts = Facts { arrived: Instant::now(), bytes: 0, tokens };
        let mut pacer = Pacer::new(shaping, facts, &Arc::new(Pace::new())).unwrap();
        (1..=256).filter(|_| pacer.count(draining)).collect()
    }

    #[tokio::test]
    async fn the_number_of_frames_follows_from_the_tokens_that_were_asked_for() {
        let shaped = Shaping::PaceAndLength(SLOT);
        for (tokens, first) in
            [(0, 8), (1, 8), (32, 8), (33, 16), (65, 32), (256, 64), (257, 128), (1 << 20, 128)]
        {
            let expected: Vec<u64> = (1..=256 / first).map(|count| count * first).collect();
            assert_eq!(ends(shaped, tokens, false), expected, "{tokens}");
        }
        assert_eq!(ends(shaped, usize::MAX, false), [128, 256]);
        assert_eq!(ends(shaped, 1000, true), (1..=32).map(|count| count * 8).collect::<Vec<u64>>());
        assert_eq!(ends(Shaping::Off, 9, false).len(), 256);
    }

    #[tokio::test]
    async fn a_stream_has_as_many_frames_as_one_before_needed() {
        let (pace, shaped) = (Arc::new(Pace::new()), Shaping::PaceAndLength(SLOT));
        let facts = Facts { arrived: Instant::now(), bytes: 0, tokens: 9 };
        let pacer = |shaping| Pacer::new(shaping, facts, &pace).unwrap();
        let last = |mut pacer: Pacer| (1..=1024).find(|_| pacer.count(false));
        assert_eq!(last(pacer(shaped)), Some(8));
        let (mut slow, mut unshaped) = (pacer(shaped), pacer(Shaping::Off));
        for _ in 0..10 {
            slow.count(false);
            unshaped.count(false);
        }
        unshaped.text_ended();
        assert_eq!(last(pacer(shaped)), Some(8));
        slow.text_ended();
        assert_eq!(last(pacer(shaped)), Some(16));
        assert_eq!(last(pacer(Shaping::Off)), Some(1));
        // Only the first time counts: fillers follow.
        for _ in 0..60 {
            slow.count(false);
        }
        slow.text_ended();
        assert_eq!(last(pacer(shaped)), Some(16));
    }

    #[test]
    fn one_frame_leaves_in_each_slot_whenever_the_one_before_was_ready() {
        let (arrived, mut slots) = schedule(900, 64);
        let start = arrived + SLOT / 2;
        for (number, random) in [0, u64::MAX, 1 << 63, 0].into_iter().enumerate() {
            let begin = start + SLOT * number as u32;
            // The slot before may be used up to its end, and a little more.
            let departure = slots.next_departure(begin + SLOT / 4, random);
            assert!(begin <= departure.at && departure.at < begin + SLOT, "{number}");
            assert!(departure.seal < departure.at && departure.at - departure.seal <= AHEAD);
        }
    }

    #[test]
    fn the_first_slot_depends_on_the_arrival_and_the_size_alone() {
        for (bytes, wait) in
            [(0, SLOT / 2), (65_535, SLOT / 2), (65_536, SLOT * 3 / 2), (1 << 20, SLOT * 33 / 2)]
        {
            let (arrived, slots) = schedule(bytes, 9);
            assert_eq!(slots.start - arrived, wait, "{bytes}");
        }
        let (arrived, mut slots) = schedule(0, 9);
        // However long reading took, up to the end of the slot.
        for taken in [Duration::ZERO, SLOT / 2, SLOT] {
            slots.next = 0;
            assert_eq!(slots.next_departure(arrived + taken, 0).at, arrived + SLOT / 2);
        }
    }

    #[test]
    fn slots_that_are_over_are_left_out_and_the_rest_stay_in_place() {
        let (arrived, mut slots) = schedule(0, 9);
        let start = arrived + SLOT / 2;
        assert_eq!(slots.next_departure(arrived, 0).at, start);
        assert_eq!(slots.next_departure(start + SLOT * 7 / 2, 0).at, start + SLOT * 3);
        assert_eq!(slots.next_departure(start + SLOT * 7 / 2, 0).at, start + SLOT * 4);
    }

    #[test]
    fn a_whole_answer_leaves_on_a_grid_that_its_class_decides() {
        for (tokens, slots) in [(1, 32), (128, 32), (129, 64), (9999, 128)] {
            let (arrived, schedule) = schedule(0, tokens);
            let (start, whole) = (arrived + SLOT / 2, SLOT * slots);
            let last = |wholes: u32| start + whole * wholes - SLOT;
            for (ready, wholes) in [
                (Duration::ZERO, 1),
                (whole - SLOT, 1),
                (whole - SLOT + Duration::from_nanos(1), 2),
                (whole * 2, 3),
                (whole * 5 / 2, 3),
            ] {
                assert_eq!(schedule.release(start + ready, 0), last(wholes), "{tokens} {ready:?}");
                let latest = schedule.release(start + ready, u64::MAX);
                assert!(last(wholes) < latest && latest < last(wholes) + SLOT);
            }
            assert_eq!(schedule.release(arrived, 0), last(1));
        }
    }

    #[test]
    fn jitter_fills_a_slot() {
        assert_eq!(share(SLOT, 0), Duration::ZERO);
        assert_eq!(share(SLOT, 1 << 63), SLOT / 2);
        assert!(share(SLOT, u64::MAX) < SLOT && share(SLOT, u64::MAX) > SLOT * 99 / 100);
        let drawn: Vec<Duration> = (0..64).map(|_| share(SLOT, random().unwrap())).collect();
        assert!(drawn.iter().any(|&at| at < SLOT / 2) && drawn.iter().any(|&at| at >= SLOT / 2));
    }

    #[test]
    fn modes_are_named_by_what_they_hide() {
        let named = |name: &str| name.parse::<ShapingMode>().map(|mode| mode.with_interval(SLOT));
        assert_eq!(named("off"), Ok(Shaping::Off));
        assert_eq!(named("pace-and-length"), Ok(Shaping::PaceAndLength(SLOT)));
        for unknown in ["constant", "bucket", "Off"] {
            assert_eq!(named(unknown), Err(UnknownShaping));
        }
    }
}
