//! The process: start, readiness, watch, drain.
//!
//! Allowed modules: blocking, config, error, http, state.

pub(crate) mod attestor;
pub(crate) mod failure;
mod identity;
pub(crate) mod lifecycle;
mod model;
mod self_check;
pub(crate) mod service;
pub(crate) mod startup;
mod watch;
