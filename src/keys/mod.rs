//! Data-encryption keys: Cloud KMS over attested credentials that heal, and the DEK cache.
//!
//! A DEK takes this way on the server: [`Keys::dek`] looks into the cache; on a miss the launcher's token is
//! exchanged for an access token and KMS unwraps the key. On the client [`Wrapper::wrap`] has KMS wrap one.
//!
//! Allowed modules: attestation, protocol, rate, secret, telemetry.
//! Forbidden: axum.

#[cfg(feature = "server")]
mod cache;
mod config;
#[cfg(feature = "server")]
mod credentials;
mod error;
#[cfg(feature = "server")]
mod exchange;
mod kms;
mod names;
mod retry;
#[cfg(feature = "server")]
mod service;
#[cfg(feature = "client")]
mod wrap;

pub use self::config::{CacheLimits, Endpoint, KmsConfig, Timeouts};
pub use self::error::{KeyError, KeyService};
pub use self::names::{InvalidName, KeyName, ServiceAccount, WipAudience};
#[cfg(feature = "server")]
pub use self::service::{Keys, Status};
#[cfg(feature = "client")]
pub use self::wrap::{WrapConfig, WrapError, Wrapper};
