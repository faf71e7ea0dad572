//! Warm-up and self-test of a model, before requests are served.
//!
//! A model with broken weights generates gibberish and looks healthy meanwhile. And the largest step is taken once, so that
//! its memory is committed before a request needs it.

use super::backend::{Backend, Row};
use super::{EngineConfig, StartError};
use crate::model::{ModelError, Slice};
use crate::token::TokenId;
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::sampling::{Scratch, argmax};

/// A prompt that any Gemma can read: `<bos>` and some rows that every vocabulary has.
const PROMPT: [TokenId; 8] =
    [TokenId(2), TokenId(100), TokenId(11), TokenId(97), TokenId(42), TokenId(64), TokenId(5), TokenId(83)];
/// How many tokens are made.
const NEW_TOKENS: usize = 4;
/// By how much a logit may differ when keys and values come from the cache, relative to the largest one.
const TOLERANCE: f32 = 1e-2;

/// Takes the largest step, then generates some tokens and compares each step with a prefill of the whole text, both as one
/// batch. Leaves every block cleared, so that all memory of the KV cache is committed.
///
/// # Errors
/// The model fails, or its numbers cannot be right.
pub(super) fn run<B: Backend>(backend: &mut B, config: &EngineConfig) -> Result<(), StartError> {
    let blocks: Vec<_> = (0..backend.blocks() as u32).map(BlockId).collect();
    let clear = |backend: &mut B| blocks.iter().try_for_each(|&block| backend.clear(block));
    clear(backend)?;
    let room = backend.context_length().min(blocks.len() * BLOCK_TOKENS);
    let largest: Vec<_> = PROMPT.into_iter().cycle().take(config.step_tokens.clamp(1, room)).collect();
    logits(backend, &[whole(&largest, &blocks)])?;
    backend.warm_up()?;

    let mut text = PROMPT.to_vec();
    text.truncate(room.saturating_sub(NEW_TOKENS).max(1));
    // The cached text is in the last blocks, the one that is prefilled again in the first.
    let (first, last) = blocks.split_at(blocks.len() / 2);
    let mut next = logits(backend, &[whole(&text, last)])?;
    let (prompt, mut scratch) = (text.len(), Scratch::default());
    for _ in 0..NEW_TOKENS.min(room.saturating_sub(text.len())) {
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
    Ok(clear(backend)?)
}

/// A text that is prefilled at once.
fn whole<'a>(tokens: &'a [TokenId], blocks: &'a [BlockId]) -> Slice<'a> {
    Slice { tokens, position: 0, blocks, num_logits: 1, prompt: tokens.len() }
}

/// The logits after the last token of each slice.
fn logits<B: Backend>(backend: &mut B, batch: &[Slice<'_>]) -> Result<Vec<f32>, ModelError> {
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
