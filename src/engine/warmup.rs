//! The first steps of a model, and the proof that it works, before anyone is served.
//!
//! A model whose numbers are wrong answers in gibberish, or in nothing at all, and looks healthy meanwhile. And the
//! largest step is taken once, so that memory that will be needed is had before anyone waits for it.

use super::backend::{Backend, Row};
use super::{EngineConfig, StartError};
use crate::model::{ModelError, Slice};
use crate::tokenizer::TokenId;
use codeseal_kernels::cpu::{BLOCK_TOKENS, BlockId};
use codeseal_kernels::sampling::{Scratch, likeliest};

/// A prompt that any Gemma can read: `<bos>` and some rows that every vocabulary has.
const PROMPT: [TokenId; 8] =
    [TokenId(2), TokenId(100), TokenId(11), TokenId(97), TokenId(42), TokenId(64), TokenId(5), TokenId(83)];
/// How many tokens are made.
const NEW_TOKENS: usize = 4;
/// By how much a logit may differ when keys and values come from the cache, relative to the largest one.
const TOLERANCE: f32 = 1e-2;

/// Takes the largest step, then makes some tokens step by step and checks each against reading the whole text anew,
/// both as one batch. Leaves every block cleared, so that all memory for keys and values has been had.
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
    // The cached text lies in the last blocks, the one that is read anew in the first.
    let (first, last) = blocks.split_at(blocks.len() / 2);
    let mut next = logits(backend, &[whole(&text, last)])?;
    let (prompt, mut scratch) = (text.len(), Scratch::default());
    for _ in 0..NEW_TOKENS.min(room.saturating_sub(text.len())) {
        let token = likeliest(&next, &mut scratch).map(TokenId).ok_or(StartError::Wrong)?;
        text.push(token);
        let cached = Slice { tokens: &[token], position: text.len() - 1, blocks: last, wanted: 1, prompt };
        let anew = whole(&text, first);
        let batch = [cached, anew];
        let batch = if first.is_empty() { &batch[..1] } else { &batch };
        let both = logits(backend, batch)?;
        let (cached, anew) = both.split_at(both.len() / batch.len());
        if batch.len() == 2 && !agree(cached, anew) {
            return Err(StartError::Wrong);
        }
        next = cached.to_vec();
    }
    if likeliest(&next, &mut scratch).is_none() {
        return Err(StartError::Wrong);
    }
    Ok(clear(backend)?)
}

/// A text that is read at once.
fn whole<'a>(tokens: &'a [TokenId], blocks: &'a [BlockId]) -> Slice<'a> {
    Slice { tokens, position: 0, blocks, wanted: 1, prompt: tokens.len() }
}

/// The logits after the last token of each slice.
fn logits<B: Backend>(backend: &mut B, batch: &[Slice<'_>]) -> Result<Vec<f32>, ModelError> {
    let choices = vec![None; batch.len()];
    let mut all = Vec::new();
    for row in backend.step(batch, &choices)?.each(&choices) {
        if let Row::Logits(logits) = row {
            all.extend_from_slice(logits);
        }
    }
    Ok(all)
}

/// Whether two ways to the same logits gave the same, as far as rounding allows. No NaN agrees with anything.
fn agree(cached: &[f32], anew: &[f32]) -> bool {
    let largest = anew.iter().fold(1.0f32, |largest, logit| largest.max(logit.abs()));
    cached.len() == anew.len() && cached.iter().zip(anew).all(|(a, b)| (a - b).abs() <= TOLERANCE * largest)
}
