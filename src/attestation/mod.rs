//! The launcher's attestation token: read, refreshed, verified, held against a policy profile.
//!
//! Must not touch: HTTP routes, the engine.

mod claims;
pub mod verify;

pub use self::claims::{
    Claims, ConfidentialSpace, Container, Gce, Gpu, Malformed, NvidiaGpu, Submods, Tdx, peek_expiry,
};
