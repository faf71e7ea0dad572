//! What the operator may see: closed sets of log events and metrics.
//!
//! Must not touch: bodies, keys, text.

mod events;

pub use self::events::{Event, emit};
