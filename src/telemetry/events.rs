//! The closed set of log events: numbers and enums, never a text that a user, a key or a path could be in.

use tracing::Level;

/// Everything that the process ever logs.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The model failed in the middle of a request.
    GenerationFailed,
    /// So much of the model has been fetched.
    ModelDownload {
        /// In steps of ten.
        percent: u64,
    },
    /// The model runs although the manifest does not pin every byte of it.
    ModelNotLocked,
    /// So much of the model has been held against the manifest.
    ModelVerify {
        /// In steps of ten.
        percent: u64,
    },
    /// The process accepts requests.
    Ready,
}

impl Event {
    fn level(self) -> Level {
        match self {
            Self::GenerationFailed => Level::ERROR,
            Self::ModelNotLocked => Level::WARN,
            Self::ModelDownload { .. } | Self::ModelVerify { .. } | Self::Ready => Level::INFO,
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
