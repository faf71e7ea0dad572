//! The launcher's attestation token: read, refreshed, verified, held against a policy profile.
//!
//! Allowed modules: files, protocol, secret.
//! Forbidden: axum.

mod claims;
#[cfg(feature = "server")]
mod clock;
#[cfg(feature = "server")]
mod error;
#[cfg(feature = "client")]
pub mod pki;
mod profile;
#[cfg(feature = "server")]
mod socket;
#[cfg(feature = "server")]
mod token;
pub mod verify;

pub use self::claims::{
    Claims, ConfidentialSpace, Container, Gce, Gpu, ImageSignature, Malformed, NvidiaGpu, Submods, Tdx,
};
#[cfg(feature = "server")]
pub use self::clock::Clock;
#[cfg(feature = "server")]
pub use self::error::AttestationError;
pub use self::profile::{OnTokenExpiry, Profile, ProfileMismatch, UnknownPolicy, UnknownProfile};
#[cfg(feature = "server")]
pub use self::socket::{LauncherSocket, MAX_NONCES, TokenRequest, TokenRequestError};
#[cfg(feature = "server")]
pub use self::token::TokenSource;
