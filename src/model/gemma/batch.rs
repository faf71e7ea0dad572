//! The input of a step, the same for CPUs and devices.

use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

use super::super::error::ModelError;
use super::config::Config;
use crate::token::TokenId;

/// The tokens that one sequence adds in a step. A batch is some of these. Where a sequence occurs twice in it, its earlier tokens
/// come first: a layer writes the keys and values of a slice before it reads those of the next one.
///
/// Not to be printed: token ids are text.
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    /// The tokens.
    pub tokens: &'a [TokenId],
    /// The position of the first of them. All before it have been read, or are in the slices before.
    pub position: usize,
    /// The block table of the sequence, with room for these tokens.
    pub blocks: &'a [BlockId],
    /// After how many of the tokens, counted from the last, logits are computed.
    pub num_logits: usize,
    /// The length of the sequence's prompt. Tokens behind it were generated, or are draft tokens.
    pub prompt: usize,
}

impl Slice<'_> {
    /// How many of the tokens, counted from the last, are not of the prompt.
    pub(super) fn generated(&self) -> usize {
        (self.position + self.tokens.len()).saturating_sub(self.prompt.max(self.position))
    }
}

impl Config {
    /// Checks that a model of this configuration can read `batch`.
    ///
    /// # Errors
    /// A slice has no tokens, or one outside the vocabulary; or it does not fit its blocks or the context.
    pub(super) fn check_batch(&self, batch: &[Slice<'_>]) -> Result<(), ModelError> {
        for slice in batch {
            let end = slice.position + slice.tokens.len();
            let known = |token: &TokenId| (token.0 as usize) < self.vocab_size;
            if slice.tokens.is_empty() || !slice.tokens.iter().all(known) {
                return Err(ModelError::Tokens);
            }
            if end > self.context_length || end > slice.blocks.len() * BLOCK_TOKENS {
                return Err(ModelError::ContextFull);
            }
        }
        Ok(())
    }
}
