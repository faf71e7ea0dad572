//! The HTTP face of the workload.
//!
//! Must not touch: cipher code, candle.
