//! Warm-up and self-test of a model, before requests are served.
//!
//! A model with broken weights generates meaningless text and looks healthy. The self-test reads all weights twice, which is
//! as few steps as show that a token gets the same logits with keys and values of the cache and without.

use std::time::Duration;

use super::backend::{Backend, Row};
use super::phases::timed;
use super::{EngineConfig, StartError};
use crate::model::{ModelError, Slice};
use crate::token::TokenId;
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::sampling::{Scratch, argmax};

/// A prompt that any Gemma can read: `<bos>` and some rows that every vocabulary has.
const PROMPT: [TokenId; 4] = [TokenId(2), TokenId(100), TokenId(11), TokenId(97)];
/// By how much a logit may differ when keys and values come from the cache, relative to the largest one.
const TOLERANCE: f32 = 1e-2;

/// Warms `backend` up, then generates a token and compares the step after it with a prefill of the whole text, both as one
/// batch. Leaves every block that was written cleared. Returns how long warm-up and self-test took.
///
/// # Errors
/// The model fails, or its numbers cannot be right.
pub(super) fn run(
    backend: &mut dyn Backend,
    config: &EngineConfig,
) -> Result<(Duration, Duration), StartError> {
    let (warm, warm_up) = timed(|| warm_up(backend, config));
    warm?;
    let (tested, self_test) = timed(|| test(backend));
    tested?;
    Ok((warm_up, self_test))
}

fn warm_up(backend: &mut dyn Backend, config: &EngineConfig) -> Result<(), StartError> {
    if backend.takes_largest_step() {
        let blocks: Vec<_> = (0..backend.blocks() as u32).map(BlockId).collect();
        let room = backend.context_length().min(blocks.len() * BLOCK_TOKENS);
        let largest: Vec<_> = PROMPT.into_iter().cycle().take(config.step_tokens.clamp(1, room)).collect();
        logits(backend, &[whole(&largest, &blocks)])?;
        let written = blocks.iter().take(largest.len().div_ceil(BLOCK_TOKENS));
        written.copied().try_for_each(|block| backend.clear(block))?;
    }
    Ok(backend.warm_up()?)
}

fn test(backend: &mut dyn Backend) -> Result<(), StartError> {
    // The cached text is in one block, and the one that is prefilled again in another.
    let blocks = [BlockId(0), BlockId(1)];
    let blocks = blocks.get(..backend.blocks()).unwrap_or(&blocks);
    let (first, last) = blocks.split_at(blocks.len() / 2);
    let room = backend.context_length().min(last.len() * BLOCK_TOKENS);

    let mut text = PROMPT.to_vec();
    text.truncate(room.saturating_sub(1).max(1));
    let (prompt, mut scratch) = (text.len(), Scratch::default());
    let mut next = logits(backend, &[whole(&text, last)])?;
    if text.len() < room {
        let token = argmax(&next, &mut scratch).map(TokenId).ok_or(StartError::Wrong)?;
        text.push(token);
        let cached =
            Slice { tokens: &[token], position: text.len() - 1, blocks: last, num_logits: 1, prompt };
        let prefilled = whole(&text, first);
        let batch = [cached, prefilled];
        let batch = if first.is_empty() { &batch[..1] } else { &batch };
        let both = logits(backend, batch)?;
        let (cached, prefilled) = both.split_at(both.len() / batch.len());
        if batch.len() == 2 && !agree(cached, prefilled) {
            return Err(StartError::Wrong);
        }
        next = cached.to_vec();
    }
    if argmax(&next, &mut scratch).is_none() {
        return Err(StartError::Wrong);
    }
    Ok(blocks.iter().try_for_each(|&block| backend.clear(block))?)
}

/// A text that is prefilled at once.
fn whole<'a>(tokens: &'a [TokenId], blocks: &'a [BlockId]) -> Slice<'a> {
    Slice { tokens, position: 0, blocks, num_logits: 1, prompt: tokens.len() }
}

/// The logits after the last token of each slice.
pub(super) fn logits(backend: &mut dyn Backend, batch: &[Slice<'_>]) -> Result<Vec<f32>, ModelError> {
    let samplers = vec![None; batch.len()];
    let mut all = Vec::new();
    for row in backend.step(batch, &samplers)?.each(&samplers) {
        if let Row::Logits(logits) = row {
            all.extend_from_slice(logits);
        }
    }
    Ok(all)
}

/// Whether both are the same logits up to rounding. NaN never agrees.
fn agree(cached: &[f32], prefilled: &[f32]) -> bool {
    let largest = prefilled.iter().fold(1.0f32, |largest, logit| largest.max(logit.abs()));
    cached.len() == prefilled.len()
        && cached.iter().zip(prefilled).all(|(a, b)| (a - b).abs() <= TOLERANCE * largest)
}
