//! CodeGemma's templates as token ids, budgets and stop texts: pure.
//!
//! Must not touch: async, IO, candle.
