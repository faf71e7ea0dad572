//! What a server ran when it was last verified, and whether it may run something else.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::state::now;
use crate::client::Measurements;

/// Changes that are kept for the status page.
const MAX_CHANGES: usize = 16;

/// The measurements of one server.
#[derive(Debug)]
pub(crate) struct Pins {
    /// Whether only what was seen first is accepted.
    first_only: bool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    last: Option<Measurements>,
    changes: VecDeque<Change>,
}

/// Something that the server runs has changed, within the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// In seconds since 1970.
    at: u64,
    what: &'static str,
    before: String,
    after: String,
}

/// The server runs something else than what was verified first.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server's {what} changed from {before} to {after}, which --pin-first refuses: start the proxy once without it to \
     accept the change"
)]
pub(crate) struct Changed {
    what: &'static str,
    before: String,
    after: String,
}

impl Pins {
    /// Compares with `last`, or if that is `None` with what is seen first.
    pub(crate) fn new(first_only: bool, last: Option<Measurements>) -> Self {
        Self { first_only, known: Mutex::new(Known { last, changes: VecDeque::new() }) }
    }

    /// Notes what a verified server runs.
    ///
    /// # Errors
    /// [`Changed`] if it differs and only what was seen first is accepted; nothing is noted then.
    pub(super) fn note(&self, measured: &Measurements) -> Result<(), Changed> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let differences = known.last.as_ref().map(|last| last.differences(measured)).unwrap_or_default();
        for (what, before, after) in differences {
            if self.first_only {
                return Err(Changed { what, before, after });
            }
            if known.changes.len() >= MAX_CHANGES {
                known.changes.pop_front();
            }
            known.changes.push_back(Change { at: now(), what, before, after });
        }
        known.last = Some(measured.clone());
        Ok(())
    }

    /// What has changed, the latest last.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.changes.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Digest;

    fn measured(build: u8, weights: u8, image: Option<&str>) -> Measurements {
        Measurements {
            build: Digest::new([build; 32]),
            weights: Digest::new([weights; 32]),
            image: image.map(str::to_owned),
        }
    }

    #[test]
    fn a_change_is_noted_by_name_and_the_list_is_bounded() {
        let pins = Pins::new(false, None);
        pins.note(&measured(1, 1, Some("a"))).unwrap();
        assert!(pins.changes().is_empty());
        pins.note(&measured(1, 2, None)).unwrap();
        let names: Vec<_> = pins.changes().iter().map(|change| change.what).collect();
        assert_eq!(names, ["weights", "image"]);
        for weights in 3..100 {
            pins.note(&measured(1, weights, None)).unwrap();
        }
        assert_eq!(pins.changes().len(), MAX_CHANGES);
    }

    #[test]
    fn with_pin_first_each_measurement_is_held_to_what_was_seen_first() {
        for (other, what) in [
            (measured(2, 1, Some("a")), "build"),
            (measured(1, 2, Some("a")), "weights"),
            (measured(1, 1, Some("b")), "image"),
            (measured(1, 1, None), "image"),
        ] {
            let pins = Pins::new(true, None);
            pins.note(&measured(1, 1, Some("a"))).unwrap();
            for _ in 0..2 {
                assert_eq!(pins.note(&other).unwrap_err().what, what);
            }
            pins.note(&measured(1, 1, Some("a"))).unwrap();
        }
        let known = Pins::new(true, Some(measured(1, 1, None)));
        assert_eq!(known.note(&measured(2, 1, None)).unwrap_err().what, "build");
    }
}
