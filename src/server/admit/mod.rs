//! From a request to its plaintext: body, slot, key, envelope, replay set. Knows nothing of what the plaintext says.
//!
//! Allowed modules: blocking, error, state.

pub(crate) mod body;
pub(crate) mod open;
pub(crate) mod replay;
pub(crate) mod unauthenticated;
