//! How long the parts of a start took.

use std::time::{Duration, Instant};

/// How long the parts of a start took, one after the other except for the tokenizer, which is loaded beside the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Parsing `tokenizer.json`.
    pub tokenizer: Duration,
    /// From the headers to the last weight: reading, hashing and packing, which overlap.
    pub weights: Duration,
    /// Setting up the KV cache.
    pub kv: Duration,
    /// Taking the memory of the largest step, and on a device taking that step.
    pub warm_up: Duration,
    /// Computing logits that are checked.
    pub self_test: Duration,
}

/// The result of `work`, and how long it took.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed())
}
