//! The endpoints: parameters, prompt, generation, whole answers and streams.
//!
//! Allowed modules: admit, error, observation, state.

pub(crate) mod attestation;
pub(crate) mod chat;
mod choices;
mod clock;
pub(crate) mod completions;
pub(crate) mod dialect;
mod gate;
pub(crate) mod generate;
mod generation;
mod logprobs;
mod pace;
mod parameters;
pub(crate) mod sealed;
pub(crate) mod shaping;
mod split;
mod sse;
mod timer;
