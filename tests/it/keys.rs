//! The KMS client and the DEK cache against the sandbox.
