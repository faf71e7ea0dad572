//! The local Confidential Space.
