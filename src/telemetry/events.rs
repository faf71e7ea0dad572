//! The closed set of log events: numbers and enums, never a text that a user, a key or a path could be in.

use tracing::Level;

/// Everything that the process ever logs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Keys cannot be unwrapped; those in the cache still work.
    KeysLost {
        /// A name out of a closed set, see `KeyError::as_str`.
        reason: &'static str,
    },
    /// Keys can be unwrapped again.
    KeysRecovered,
    /// The process accepts requests.
    Ready,
}

impl Event {
    fn level(self) -> Level {
        match self {
            Self::KeysLost { .. } => Level::WARN,
            Self::KeysRecovered | Self::Ready => Level::INFO,
        }
    }
}

/// Writes `event` to the log.
pub fn emit(event: Event) {
    // The macros are disallowed everywhere else, so this is the one door to the log.
    #[allow(clippy::disallowed_macros)]
    match event.level() {
        Level::ERROR => tracing::error!(target: "codeseal", event = ?event),
        Level::WARN => tracing::warn!(target: "codeseal", event = ?event),
        _ => tracing::info!(target: "codeseal", event = ?event),
    }
}
