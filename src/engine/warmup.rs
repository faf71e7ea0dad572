//! Warm-up and self-test of a model, before requests are served.
//!
//! A model with broken weights generates meaningless text and looks healthy. The self-test reads all weights once, which is
//! enough to show that a token gets the same logits with keys and values of the cache and without.

use std::time::Duration;

use super::backend::{Backend, Row};
use super::phases::timed;
use super::{EngineConfig, StartError};
use crate::model::{ModelError, Slice};
use crate::token::TokenId;
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

/// A text that any Gemma can read: `<bos>` and a row that every vocabulary has.
const TEXT: [TokenId; 2] = [TokenId(2), TokenId(100)];
/// By how much a logit may differ when keys and values come from the cache, relative to the largest one.
const TOLERANCE: f32 = 1e-2;

/// Warms `backend` up, then compares a token that is read behind its prompt with a prefill of the whole text. Leaves every block
/// that was written cleared. Returns how long warm-up and self-test took.
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
        let largest: Vec<_> = TEXT.into_iter().cycle().take(config.step_tokens.clamp(1, room)).collect();
        logits(backend, &[whole(&largest, &blocks)])?;
        let written = blocks.iter().take(largest.len().div_ceil(BLOCK_TOKENS));
        written.copied().try_for_each(|block| backend.clear(block))?;
    }
    Ok(backend.warm_up()?)
}

/// Takes one step with the text twice: its prompt and, as another slice, the token behind it, which reads what each layer has
/// just written for the prompt; and all of it in a block of its own.
fn test(backend: &mut dyn Backend) -> Result<(), StartError> {
    let blocks = [BlockId(0), BlockId(1)];
    let blocks = blocks.get(..backend.blocks()).unwrap_or(&blocks);
    let (second, first) = blocks.split_at(blocks.len() / 2);
    let room = backend.context_length().min(first.len() * BLOCK_TOKENS);
    let text = TEXT.get(..room).unwrap_or(&TEXT);
    let (prompt, token) = text.split_at(text.len().saturating_sub(1));

    let mut batch = Vec::new();
    if !prompt.is_empty() {
        batch.push(Slice { num_logits: 0, ..whole(prompt, first) });
    }
    batch.push(Slice {
        tokens: token,
        position: prompt.len(),
        blocks: first,
        num_logits: 1,
        prompt: prompt.len(),
    });
    if !second.is_empty() {
        batch.push(whole(text, second));
    }
    let made = logits(backend, &batch)?;
    // Where there is one block only, both are the same row: it has numbers or not.
    let row = made.len() / if second.is_empty() { 1 } else { 2 };
    let (cached, prefilled) = (made.get(..row), made.get(made.len() - row..));
    if row == 0 || !agree(cached.unwrap_or_default(), prefilled.unwrap_or_default()) {
        return Err(StartError::Wrong);
    }
    Ok(blocks.iter().try_for_each(|&block| backend.clear(block))?)
}

/// A text that is prefilled at once.
fn whole<'a>(tokens: &'a [TokenId], blocks: &'a [BlockId]) -> Slice<'a> {
    Slice { tokens, position: 0, blocks, num_logits: 1, prompt: tokens.len() }
}

/// The logits of each row that the slices ask for.
pub(super) fn logits(backend: &mut dyn Backend, batch: &[Slice<'_>]) -> Result<Vec<f32>, ModelError> {
    let samplers = vec![None; batch.iter().map(|slice| slice.num_logits).sum()];
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
