//! KV blocks: the unit in which keys and values are allocated, on CPUs and on devices.
//!
//! A block holds the keys and values of [`BLOCK_TOKENS`] tokens of one sequence, for all layers. The blocks of a sequence,
//! in order, are its block table. Blocks never move. In CUDA sources a KV block is called a page, because a block is a group
//! of threads there.

/// Tokens per block.
pub const BLOCK_TOKENS: usize = 32;

/// The index of a block in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);
