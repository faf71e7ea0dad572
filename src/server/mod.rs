//! The HTTP face of the workload: sealed requests in, sealed answers out.
//!
//! The way of a request: `accept` → `router` (`framing`) → `admission` (body, slot, key, seal, replay) → a handler
//! (`generate`, `sealed` with a `dialect`) → `choices` → `generation`.
//! Must not touch: cipher code, candle.

mod accept;
mod admin;
mod admission;
mod attestation;
mod body;
mod chat;
mod choices;
mod completions;
mod descriptors;
mod dialect;
mod error;
mod framing;
mod generate;
mod generation;
mod health;
mod identity;
mod lifecycle;
mod logprobs;
mod observation;
mod parameters;
mod replay;
mod router;
mod sealed;
mod self_check;
mod service;
mod shaping;
mod socket;
mod split;
mod sse;
mod startup;
mod state;
mod unauthenticated;
mod watch;
mod write_timeout;

pub use self::service::{Service, run};
pub use self::shaping::{Shaping, ShapingMode, UnknownShaping};
pub use self::startup::ServeError;
