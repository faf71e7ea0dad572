//! The HTTP face of the workload: sealed requests in, sealed answers out.
//!
//! | folder | holds |
//! |---|---|
//! | `http` | connections, framing, routes, health, metrics |
//! | `admit` | from a request to its plaintext: body, slot, key, envelope, replay set |
//! | `answer` | the endpoints: parameters, generation, whole answers and streams |
//! | `life` | start, readiness, watch, drain |
//!
//! The way of a request: `http::accept` → `http::router` (`http::framing`) → a handler in `answer` (`generate`, `sealed`
//! with a `dialect`) → `admit::open` (body, slot, key, envelope, replay) → `answer::choices` → `answer::generation`.
//!
//! Allowed modules: attestation, engine, flags, hub, keys, model::BackendChoice, model::ModelFiles, model::Quantize, prompt,
//! protocol, rate, secret, telemetry, token, tokenizer, write_timeout.
//! Forbidden: aws_lc_rs, fernet, google_cloud_*.

mod admit;
mod answer;
mod blocking;
mod config;
mod error;
mod http;
mod life;
mod observation;
mod state;

pub use self::answer::shaping::{Shaping, ShapingMode, UnknownShaping};
pub(crate) use self::config::ServeArgs;
pub use self::config::{Logging, ModelOrigin, RequestLimits, ServerConfig, ServerConfigError};
pub use self::life::failure::ServeError;
pub use self::life::service::{Service, run};
