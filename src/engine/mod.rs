//! Generation: the async handle and the one model thread behind it.
//!
//! Must not touch: HTTP, KMS.
