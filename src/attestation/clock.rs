//! What time it is, for whatever an attestation token's life is held against.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// This machine's clock. Tests have one that goes with tokio's time, so that an hour takes no time.
#[derive(Clone, Copy, Debug, Default)]
pub enum Clock {
    /// The system's.
    #[default]
    System,
    /// The system's at the beginning of a test, and tokio's from there on.
    #[cfg(test)]
    Tokio {
        /// What the system's clock said.
        began: Duration,
        /// When it said so.
        at: tokio::time::Instant,
    },
}

impl Clock {
    /// A clock that goes with tokio's time.
    #[cfg(test)]
    pub(crate) fn tokio() -> Self {
        Self::Tokio { began: Self::System.since_1970(), at: tokio::time::Instant::now() }
    }

    /// How long ago 1970 began.
    pub fn since_1970(self) -> Duration {
        match self {
            Self::System => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            #[cfg(test)]
            Self::Tokio { began, at } => began + at.elapsed(),
        }
    }
}
