//! A local Confidential Space: launcher, issuer, STS, IAM and KMS on loopback, with faults on demand.
//!
//! Must not touch: production code paths.
