//! What the model's time goes into: arithmetic over weights, keys and values, by the machine's widest instructions.
//!
//! Must not touch: requests, HTTP, async runtimes, the engine.

pub(crate) mod cpu;
pub mod cuda;
pub mod sampling;
