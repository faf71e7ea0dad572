//! Connections and HTTP: accept loop, socket, framing, routes, health, metrics. Knows nothing of envelopes.
//!
//! Allowed modules: answer, error, observation, state.

pub(crate) mod accept;
pub(crate) mod admin;
pub(crate) mod descriptors;
pub(crate) mod framing;
pub(crate) mod health;
pub(crate) mod router;
mod socket;
