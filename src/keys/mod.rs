//! Data-encryption keys: Cloud KMS over attested credentials that revive, and the DEK cache.
//!
//! Must not touch: prompts, the engine.
