//! What the network shows of an answer: when it leaves, in how many frames, and how large it is.
//!
//! The pace of a model's tokens tells an observer of the network what a text is about ("What Was Your Prompt?", USENIX Security
//! 2024; "Whisper Leak", 2025). With [`Shaping::PaceAndLength`] departures follow from the request and from random numbers:
//! time is divided into slots, and one frame of a stream leaves within each, at the slot's random [departure](Clock) and in random
//! order [with the others](Gate), from a fixed time after the request arrived. What the model does in between changes nothing. A frame is sealed ahead of its departure. The jitter
//! is as wide as a slot, because a thread that is woken while the model computes runs up to some milliseconds late, and an
//! observer averages over all frames of a stream.
//!
//! How many frames there are follows from `max_tokens`, and on a slow model from the streams before: see [`Pace`].

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::{Clock, share, times};
use super::gate::Gate;
use super::pace::{FEWEST_FRAMES, Pace, class};

/// A frame is sealed this long before it leaves, or a fifth of a slot.
const AHEAD: Duration = Duration::from_millis(5);
/// Whole answers leave in the last slot of this many, or of a multiple: no stream before them tells how long they take.
const WHOLE_SLOTS: u64 = 32;
/// The first frame leaves later by one slot for as many bytes of a request: it takes some of that to open and tokenize them.
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

/// What all shaped answers of a server share.
#[derive(Debug)]
pub(crate) struct Shaper {
    clock: Clock,
    gate: Gate,
    pace: Pace,
}

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

/// When the parts of one answer leave. Without a shaper, as soon as they are ready.
#[derive(Debug)]
pub(crate) struct Pacer {
    shaped: Option<Shaped>,
    sent: u64,
}

/// When a frame is sealed, and when it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Departure {
    /// What is known by then is in the frame.
    pub(crate) seal: Instant,
    /// When the frame is handed to the connection.
    pub(crate) at: Instant,
}

/// The departures of one answer.
#[derive(Debug)]
struct Shaped {
    shaper: Arc<Shaper>,
    /// No frame leaves before.
    start: Instant,
    /// The number of the slot that the next frame leaves in.
    next: u64,
    /// How many frames follow from the request.
    class: u64,
    /// How many frames a stream has, or a multiple.
    frames: u64,
    /// Whether the shaper has been told that the text is complete.
    complete: bool,
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

impl Shaper {
    /// Shapes a server's answers, unless that is off.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub(crate) fn new(shaping: Shaping) -> io::Result<Option<Arc<Self>>> {
        let Shaping::PaceAndLength(slot) = shaping else { return Ok(None) };
        Ok(Some(Arc::new(Self { clock: Clock::new(slot), gate: Gate::new()?, pace: Pace::new() })))
    }
}

impl Pacer {
    /// Departures of the answer to a request.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub(crate) fn new(shaper: Option<&Arc<Shaper>>, facts: Facts) -> Result<Self, getrandom::Error> {
        let shaped = shaper.map(|shaper| Shaped::new(Arc::clone(shaper), facts)).transpose()?;
        Ok(Self { shaped, sent: 0 })
    }

    /// When the next frame leaves; `None` as soon as it is ready.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub(crate) fn next_departure(&mut self) -> Result<Option<Departure>, getrandom::Error> {
        self.shaped.as_mut().map(|shaped| shaped.next_departure(Instant::now())).transpose()
    }

    /// When a whole answer leaves that is ready now; `None` at once.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub(crate) fn release(&self) -> Result<Option<Instant>, getrandom::Error> {
        let Some(shaped) = &self.shaped else { return Ok(None) };
        Ok(Some(shaped.release(Instant::now(), getrandom::u64()?)))
    }

    /// Waits for a departure.
    ///
    /// # Errors
    /// The OS random number generator failed, or the runtime shuts down.
    pub(crate) async fn wait_until(&self, at: Instant) -> io::Result<()> {
        match &self.shaped {
            Some(shaped) => shaped.shaper.gate.wait_until(at).await,
            None => Ok(()),
        }
    }

    /// Counts the frame that leaves next. Returns whether it may be the last one. A server that drains ends a
    /// stream after a multiple of [`FEWEST_FRAMES`].
    pub(crate) fn count(&mut self, draining: bool) -> bool {
        self.sent += 1;
        let Some(Shaped { frames, .. }) = self.shaped else { return true };
        self.sent.is_multiple_of(if draining { FEWEST_FRAMES } else { frames })
    }

    /// Records that the text was complete with the frame that was counted last.
    pub(crate) fn text_ended(&mut self) {
        if let Some(shaped) = &mut self.shaped
            && !std::mem::replace(&mut shaped.complete, true)
        {
            shaped.shaper.pace.observe(shaped.class, self.sent, Instant::now());
        }
    }
}

impl Shaped {
    fn new(shaper: Arc<Shaper>, facts: Facts) -> Result<Self, getrandom::Error> {
        let slot = shaper.clock.slot();
        // Half a slot for parsing, opening and tokenizing what is short.
        let start = facts.arrived + slot / 2 + times(slot, (facts.bytes / BYTES_PER_SLOT) as u64);
        let next = shaper.clock.first(start)?;
        let class = class(facts.tokens);
        let frames = shaper.pace.frames(class, Instant::now());
        Ok(Self { shaper, start, next, class, frames, complete: false })
    }

    /// The departure of the next slot that is not over: a client that takes frames slowly gets no burst afterwards.
    fn next_departure(&mut self, now: Instant) -> Result<Departure, getrandom::Error> {
        let clock = &self.shaper.clock;
        let number = self.next.max(clock.number(now));
        let at = clock.departure(number)?;
        self.next = number.saturating_add(1);
        Ok(Departure { seal: at - AHEAD.min(clock.slot() / 5), at })
    }

    /// A departure within the last slot of the time of its class, which is [`WHOLE_SLOTS`] or more, or of a multiple of that which
    /// has not begun; `random` is where in it. It does not wait as long as slow answers took before: a client waits for it.
    fn release(&self, now: Instant, random: u64) -> Instant {
        let slot = self.shaper.clock.slot();
        let whole = times(slot, self.class.max(WHOLE_SLOTS));
        let past = now.saturating_duration_since(self.start) + slot;
        let wholes = past.as_nanos().div_ceil(whole.as_nanos().max(1)).max(1);
        let end = times(whole, u64::try_from(wholes).unwrap_or(u64::MAX));
        self.start + (end - slot) + share(slot, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Duration = Duration::from_millis(50);
    const SHAPED: Shaping = Shaping::PaceAndLength(SLOT);

    fn facts(bytes: usize, tokens: usize) -> Facts {
        Facts { arrived: Instant::now(), bytes, tokens }
    }

    fn pacer(shaper: Option<&Arc<Shaper>>, tokens: usize) -> Pacer {
        Pacer::new(shaper, facts(0, tokens)).unwrap()
    }

    fn shaped(bytes: usize) -> (Instant, Shaped) {
        let shaper = Shaper::new(SHAPED).unwrap().unwrap();
        let facts = facts(bytes, 9);
        (facts.arrived, Shaped::new(shaper, facts).unwrap())
    }

    fn ends(shaping: Shaping, tokens: usize, draining: bool) -> Vec<u64> {
        let mut pacer = pacer(Shaper::new(shaping).unwrap().as_ref(), tokens);
        (1..=256).filter(|_| pacer.count(draining)).collect()
    }

    #[tokio::test]
    async fn the_number_of_frames_follows_from_the_tokens_that_were_asked_for() {
        for (tokens, first) in
            [(0, 8), (1, 8), (32, 8), (33, 16), (65, 32), (256, 64), (257, 128), (1 << 20, 128)]
        {
            let expected: Vec<u64> = (1..=256 / first).map(|count| count * first).collect();
            assert_eq!(ends(SHAPED, tokens, false), expected, "{tokens}");
        }
        assert_eq!(ends(SHAPED, usize::MAX, false), [128, 256]);
        assert_eq!(ends(SHAPED, 1000, true), (1..=32).map(|count| count * 8).collect::<Vec<u64>>());
        assert_eq!(ends(Shaping::Off, 9, false).len(), 256);
    }

    #[tokio::test]
    async fn a_stream_has_as_many_frames_as_one_before_needed() {
        let shaper = Shaper::new(SHAPED).unwrap();
        let next = || {
            (1..=1024).find({
                let mut pacer = pacer(shaper.as_ref(), 9);
                move |_| pacer.count(false)
            })
        };
        assert_eq!(next(), Some(8));
        let mut slow = pacer(shaper.as_ref(), 9);
        for _ in 0..10 {
            slow.count(false);
        }
        assert_eq!(next(), Some(8));
        slow.text_ended();
        assert_eq!(next(), Some(16));
        // Only the first time counts: fillers follow.
        for _ in 0..60 {
            slow.count(false);
        }
        slow.text_ended();
        assert_eq!(next(), Some(16));
        let mut unshaped = pacer(None, 9);
        unshaped.text_ended();
        assert!(unshaped.count(false));
    }

    #[tokio::test(start_paused = true)]
    async fn one_frame_leaves_in_each_slot_whenever_the_one_before_was_ready() {
        let (arrived, mut shaped) = shaped(900);
        let (mut last, mut now) = (arrived + SLOT / 2, arrived);
        for number in 0..20 {
            let departure = shaped.next_departure(now).unwrap();
            assert!(
                last <= departure.at && departure.at < arrived + SLOT / 2 + SLOT * (number + 2),
                "{number}"
            );
            assert!(departure.seal < departure.at && departure.at - departure.seal <= AHEAD);
            assert_eq!(shaped.next, shaped.shaper.clock.number(departure.at) + 1);
            last = departure.at;
            // It was handed over late, in the slot after its own. To the nanosecond: a sleep would end in whole milliseconds, and
            // may end in the slot behind that.
            now = shaped.shaper.clock.departure(shaped.next).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_departure_depends_on_the_arrival_and_the_size_alone() {
        for (bytes, wait) in
            [(0, SLOT / 2), (65_535, SLOT / 2), (65_536, SLOT * 3 / 2), (1 << 20, SLOT * 33 / 2)]
        {
            let (arrived, mut shaped) = shaped(bytes);
            let (first, clock) = (shaped.next, Arc::clone(&shaped.shaper));
            // However long reading took, up to the end of the slot.
            let end = clock.clock.departure(first).unwrap();
            for now in [arrived, arrived + wait / 2, end] {
                shaped.next = first;
                assert_eq!(shaped.next_departure(now).unwrap().at, end, "{bytes}");
            }
            assert!(arrived + wait <= end && end < arrived + wait + 2 * SLOT, "{bytes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slots_that_are_over_are_left_out() {
        let (_, mut shaped) = shaped(0);
        let first = shaped.next;
        let late = shaped.shaper.clock.departure(first + 3).unwrap();
        assert_eq!(shaped.next_departure(late).unwrap().at, late);
        assert_eq!(shaped.next, first + 4);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_leave_together() {
        let shaper = Shaper::new(SHAPED).unwrap().unwrap();
        let mut first = Shaped::new(Arc::clone(&shaper), facts(0, 9)).unwrap();
        let mut other = Shaped::new(Arc::clone(&shaper), facts(0, 400)).unwrap();
        other.next = first.next;
        let now = Instant::now();
        for _ in 0..9 {
            assert_eq!(first.next_departure(now).unwrap(), other.next_departure(now).unwrap());
        }
    }

    #[tokio::test]
    async fn a_whole_answer_leaves_on_a_grid_that_its_class_decides() {
        let shaper = Shaper::new(SHAPED).unwrap().unwrap();
        for (tokens, slots) in [(1, 32), (128, 32), (129, 64), (9999, 128)] {
            let facts = facts(0, tokens);
            let shaped = Shaped::new(Arc::clone(&shaper), facts).unwrap();
            let (start, whole) = (facts.arrived + SLOT / 2, SLOT * slots);
            let last = |wholes: u32| start + whole * wholes - SLOT;
            for (ready, wholes) in [
                (Duration::ZERO, 1),
                (whole - SLOT, 1),
                (whole - SLOT + Duration::from_nanos(1), 2),
                (whole * 2, 3),
                (whole * 5 / 2, 3),
            ] {
                assert_eq!(shaped.release(start + ready, 0), last(wholes), "{tokens} {ready:?}");
                let latest = shaped.release(start + ready, u64::MAX);
                assert!(last(wholes) < latest && latest < last(wholes) + SLOT);
            }
            assert_eq!(shaped.release(facts.arrived, 0), last(1));
        }
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
