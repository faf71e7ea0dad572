//! When frames leave: the same times for all streams of a server.
//!
//! Time is divided into slots, and each slot has one random departure. Streams that leave together cost one wake-up, and take a core
//! from the model once in a slot, however many they are.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Slots and their departures.
#[derive(Debug)]
pub(super) struct Clock {
    slot: Duration,
    /// When slot 0 began.
    epoch: Instant,
    /// Departures by slot, of those that have been asked for and are not over.
    drawn: Mutex<BTreeMap<u64, Instant>>,
}

impl Clock {
    /// Slots of this length; the first begins now.
    pub(super) fn new(slot: Duration) -> Self {
        // Without a length there would be no end of slots.
        let slot = slot.max(Duration::from_millis(1));
        Self { slot, epoch: Instant::now(), drawn: Mutex::default() }
    }

    /// How long a slot is.
    pub(super) fn slot(&self) -> Duration {
        self.slot
    }

    /// The number of the slot that `time` is in.
    pub(super) fn number(&self, time: Instant) -> u64 {
        let past = time.saturating_duration_since(self.epoch).as_nanos() / self.slot.as_nanos();
        u64::try_from(past).unwrap_or(u64::MAX)
    }

    /// The departure of the slot `number`.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub(super) fn departure(&self, number: u64) -> Result<Instant, getrandom::Error> {
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&at) = drawn.get(&number) {
            return Ok(at);
        }
        let at = self.epoch + times(self.slot, number) + share(self.slot, getrandom::u64()?);
        drawn.insert(number, at);
        let over = self.number(Instant::now());
        while drawn.first_key_value().is_some_and(|(&first, _)| first < over) {
            drawn.pop_first();
        }
        Ok(at)
    }

    /// The first slot whose departure is at `earliest` or after it.
    ///
    /// # Errors
    /// The OS random number generator failed.
    pub(super) fn first(&self, earliest: Instant) -> Result<u64, getrandom::Error> {
        let number = self.number(earliest);
        Ok(if self.departure(number)? < earliest { number + 1 } else { number })
    }
}

/// As long as `count` slots.
pub(super) fn times(slot: Duration, count: u64) -> Duration {
    slot.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The part of a slot that `random` is of 2^64.
pub(super) fn share(slot: Duration, random: u64) -> Duration {
    let nanos = (slot.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn each_slot_has_one_departure_within_it() {
        let clock = Clock::new(SLOT);
        let mut places = Vec::new();
        for number in 0..64 {
            let (begin, at) = (clock.epoch + SLOT * number, clock.departure(number.into()).unwrap());
            assert!(begin <= at && at < begin + SLOT, "{number}");
            assert_eq!(clock.departure(number.into()).unwrap(), at);
            assert_eq!((clock.number(at), clock.number(begin)), (number.into(), number.into()));
            places.push(at - begin);
        }
        assert!(places.iter().any(|&at| at < SLOT / 2) && places.iter().any(|&at| at >= SLOT / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_slot_is_one_whose_departure_has_not_been() {
        let clock = Clock::new(SLOT);
        for number in 9..40 {
            let at = clock.departure(number).unwrap();
            assert_eq!(clock.first(at).unwrap(), number);
            assert_eq!(clock.first(at + Duration::from_nanos(1)).unwrap(), number + 1);
            assert_eq!(clock.first(clock.epoch + times(SLOT, number)).unwrap(), number);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn departures_that_are_over_take_no_memory() {
        let clock = Clock::new(SLOT);
        for _ in 0..100 {
            let now = clock.number(Instant::now());
            clock.departure(now).unwrap();
            clock.departure(now + 3).unwrap();
            tokio::time::advance(SLOT).await;
        }
        assert!(clock.drawn.lock().unwrap().len() <= 5);
    }

    #[test]
    fn jitter_fills_a_slot() {
        assert_eq!(share(SLOT, 0), Duration::ZERO);
        assert_eq!(share(SLOT, 1 << 63), SLOT / 2);
        assert!(share(SLOT, u64::MAX) < SLOT && share(SLOT, u64::MAX) > SLOT * 99 / 100);
    }
}
