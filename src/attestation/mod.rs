//! The launcher's attestation token: read, refreshed, verified, held against a policy profile.
//!
//! Must not touch: HTTP routes, the engine.
