//! The Gemma architecture through candle.
//!
//! Must not touch: async runtimes, HTTP, the scheduler.
