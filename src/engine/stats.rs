//! Counters and gauges of the engine, for metrics: written by the model thread, read by any thread.

use std::sync::atomic::{AtomicU64, Ordering};

use super::scheduler::Counters;

/// The load of an engine, and counters since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Running requests.
    pub running: usize,
    /// Waiting requests.
    pub waiting: usize,
    /// KV blocks that running requests hold.
    pub kv_blocks_used: u64,
    /// KV blocks of the pool.
    pub kv_blocks: u64,
    /// Steps that the model has taken, for all requests together.
    pub steps: u64,
    /// Tokens of the prompts that were admitted.
    pub prefix_queries: u64,
    /// Those of them that were found in the prefix cache.
    pub prefix_hits: u64,
    /// Draft tokens.
    pub draft_tokens: u64,
    /// Draft tokens that were accepted.
    pub accepted_tokens: u64,
}

/// The numbers of a [`Load`] that the model thread keeps.
#[derive(Default)]
pub(super) struct Stats {
    kv_blocks_used: AtomicU64,
    kv_blocks: AtomicU64,
    steps: AtomicU64,
    prefix_queries: AtomicU64,
    prefix_hits: AtomicU64,
    drafted: AtomicU64,
    accepted: AtomicU64,
}

impl Stats {
    pub(super) fn record(&self, counters: Counters, used: usize, blocks: usize) {
        // The numbers are independent: no reader derives one from another.
        for (to, value) in [
            (&self.kv_blocks_used, used as u64),
            (&self.kv_blocks, blocks as u64),
            (&self.steps, counters.steps),
            (&self.prefix_queries, counters.prefix_queries),
            (&self.prefix_hits, counters.prefix_hits),
            (&self.drafted, counters.drafted),
            (&self.accepted, counters.accepted),
        ] {
            to.store(value, Ordering::Relaxed);
        }
    }

    pub(super) fn load(&self, running: usize, waiting: usize) -> Load {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Load {
            running,
            waiting,
            kv_blocks_used: read(&self.kv_blocks_used),
            kv_blocks: read(&self.kv_blocks),
            steps: read(&self.steps),
            prefix_queries: read(&self.prefix_queries),
            prefix_hits: read(&self.prefix_hits),
            draft_tokens: read(&self.drafted),
            accepted_tokens: read(&self.accepted),
        }
    }
}
