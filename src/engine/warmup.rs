//! The first steps of a model, and the proof that it works, before anyone is served.
//!
//! A model whose numbers are wrong answers in gibberish, or in nothing at all, and looks healthy meanwhile.

use super::StartError;
use super::backend::Backend;
use super::sampler::likeliest;
use crate::tokenizer::TokenId;

/// A prompt that any Gemma can read: `<bos>` and some rows that every vocabulary has.
const PROMPT: [TokenId; 8] =
    [TokenId(2), TokenId(100), TokenId(11), TokenId(97), TokenId(42), TokenId(64), TokenId(5), TokenId(83)];
/// How many tokens are made.
const NEW_TOKENS: usize = 4;
/// By how much a logit may differ when keys and values come from the cache, relative to the largest one.
const TOLERANCE: f32 = 1e-2;

/// Makes some tokens step by step, and checks each step against reading the whole text anew.
///
/// # Errors
/// The model fails, or its numbers cannot be right.
pub(super) fn run<B: Backend>(backend: &B) -> Result<(), StartError> {
    let mut text = PROMPT.to_vec();
    text.truncate(backend.context_length().saturating_sub(NEW_TOKENS).max(1));
    let mut cached = backend.begin();
    let mut logits = backend.forward(&mut cached, &text)?;
    for _ in 0..NEW_TOKENS.min(backend.context_length().saturating_sub(text.len())) {
        let token = likeliest(&logits).ok_or(StartError::Wrong)?;
        text.push(token);
        logits = backend.forward(&mut cached, &[token])?;
        let anew = backend.forward(&mut backend.begin(), &text)?;
        if !agree(&logits, &anew) {
            return Err(StartError::Wrong);
        }
    }
    Ok(())
}

/// Whether two ways to the same logits gave the same, as far as rounding allows. No NaN agrees with anything.
fn agree(cached: &[f32], anew: &[f32]) -> bool {
    let largest = anew.iter().fold(1.0f32, |largest, logit| largest.max(logit.abs()));
    cached.len() == anew.len() && cached.iter().zip(anew).all(|(a, b)| (a - b).abs() <= TOLERANCE * largest)
}
