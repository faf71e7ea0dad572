//! What the operator may see: closed sets of log events and metrics, and a process that leaves no dump behind.
//!
//! Allowed modules: protocol.
//! Forbidden: axum.

mod build_info;
mod events;
mod hardening;
mod labels;
mod logging;
#[cfg(feature = "server")]
mod metrics;
mod queue;

pub use self::build_info::VERSION;
pub use self::events::{Event, StartPhases, emit};
pub use self::hardening::{harden, redact_panics};
pub use self::labels::{Endpoint, Hardening, RequestOutcome};
pub use self::logging::{LogFormat, LogLevel, LoggingError, init, init_to};
#[cfg(feature = "server")]
pub use self::metrics::{EngineReadings, InFlight, Metrics, ModelLabels};
pub use self::queue::{LogGuard, write_error};
