//! What the frames of a stream let be seen: when they leave, and how many there are.
//!
//! The pace of a model's tokens tells what a text is about to those who watch the line ("What Was Your Prompt?",
//! USENIX Security 2024; "Whisper Leak", 2025). On a clock, frames leave at the same pace whatever there is to say.
//! Pure but for the clock.

use std::str::FromStr;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

/// Streams of other than `off` have a multiple of so many frames.
const BUCKET_FRAMES: u64 = 32;

/// How the frames of a stream leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shaping {
    /// One with each step of the model, and no more.
    Off,
    /// One with each step of the model, and others at the end until their number is a round one.
    Bucket,
    /// One at each tick of a clock of this period, until their number is a round one.
    Constant(Duration),
}

impl Shaping {
    /// Between two ticks unless configured: hardly to be felt, and time enough for a step of most models.
    pub const INTERVAL: Duration = Duration::from_millis(50);
}

/// A mode's name, without the clock's period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapingMode {
    /// [`Shaping::Off`]
    Off,
    /// [`Shaping::Bucket`]
    Bucket,
    /// [`Shaping::Constant`]
    Constant,
}

/// Not the name of a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("streams are shaped by one of constant, bucket and off")]
pub struct UnknownShaping;

/// Counts the frames of one stream, and times them.
#[derive(Debug)]
pub(crate) struct Pacer {
    shaping: Shaping,
    clock: Option<Interval>,
    sent: u64,
}

impl ShapingMode {
    /// The mode with the period that its clock has, should it have one.
    pub fn with_interval(self, interval: Duration) -> Shaping {
        match self {
            Self::Off => Shaping::Off,
            Self::Bucket => Shaping::Bucket,
            Self::Constant => Shaping::Constant(interval),
        }
    }
}

impl FromStr for ShapingMode {
    type Err = UnknownShaping;

    fn from_str(name: &str) -> Result<Self, UnknownShaping> {
        match name {
            "off" => Ok(Self::Off),
            "bucket" => Ok(Self::Bucket),
            "constant" => Ok(Self::Constant),
            _ => Err(UnknownShaping),
        }
    }
}

impl Pacer {
    /// A clock begins to tick now. Needs a runtime.
    pub(crate) fn start(shaping: Shaping) -> Self {
        let clock = match shaping {
            Shaping::Off | Shaping::Bucket => None,
            Shaping::Constant(period) => {
                let mut clock = interval(period);
                // A client that takes frames slowly does not get a burst afterwards: that would show how slow it was.
                clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
                Some(clock)
            }
        };
        Self { shaping, clock, sent: 0 }
    }

    /// The clock, if frames leave by one.
    pub(crate) fn clock(&mut self) -> Option<&mut Interval> {
        self.clock.as_mut()
    }

    /// Counts the frame that leaves next. Returns whether it may be the last one.
    pub(crate) fn count(&mut self) -> bool {
        self.sent += 1;
        self.shaping == Shaping::Off || self.sent.is_multiple_of(BUCKET_FRAMES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_unshaped_streams_may_end_anywhere() {
        for (shaping, expected) in [
            (Shaping::Off, (1..=64).collect::<Vec<u64>>()),
            (Shaping::Bucket, vec![32, 64]),
            (Shaping::Constant(Duration::from_millis(1)), vec![32, 64]),
        ] {
            let mut pacer = Pacer::start(shaping);
            let ends: Vec<u64> = (1..=64).filter(|_| pacer.count()).collect();
            assert_eq!(ends, expected, "{shaping:?}");
        }
    }

    #[test]
    fn modes_have_names() {
        let named = |name: &str| name.parse::<ShapingMode>().map(|mode| mode.with_interval(Duration::MAX));
        assert_eq!(named("off"), Ok(Shaping::Off));
        assert_eq!(named("bucket"), Ok(Shaping::Bucket));
        assert_eq!(named("constant"), Ok(Shaping::Constant(Duration::MAX)));
        assert_eq!(named("Constant"), Err(UnknownShaping));
    }
}
