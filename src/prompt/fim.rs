//! Plain continuation and fill-in-the-middle.

use super::control::{BOS, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX};
use crate::tokenizer::TokenId;

/// What an empty suffix is replaced by: the model was trained on gaps with something behind them, and a file ends
/// in a newline.
const END_OF_FILE: &str = "\n";

/// `<bos>` and the text.
///
/// # Errors
/// Those of `encode`.
pub fn completion<E>(
    encode: impl Fn(&str) -> Result<Vec<TokenId>, E>,
    prompt: &str,
) -> Result<Vec<TokenId>, E> {
    let mut ids = vec![BOS];
    ids.extend(encode(prompt)?);
    Ok(ids)
}

/// `<bos><|fim_prefix|>` prefix `<|fim_suffix|>` suffix `<|fim_middle|>`, without a space or a newline between.
///
/// Prefix and suffix are encoded apart: no merge may reach across the cursor.
///
/// # Errors
/// Those of `encode`.
pub fn infill<E>(
    encode: impl Fn(&str) -> Result<Vec<TokenId>, E>,
    prefix: &str,
    suffix: &str,
) -> Result<Vec<TokenId>, E> {
    let suffix = if suffix.is_empty() { END_OF_FILE } else { suffix };
    let mut ids = vec![BOS, FIM_PREFIX];
    ids.extend(encode(prefix)?);
    ids.push(FIM_SUFFIX);
    ids.extend(encode(suffix)?);
    ids.push(FIM_MIDDLE);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// One id per byte, far above the control tokens.
    fn encode(text: &str) -> Result<Vec<TokenId>, Infallible> {
        Ok(text.bytes().map(|byte| TokenId(1000 + u32::from(byte))).collect())
    }

    fn numbers(ids: Result<Vec<TokenId>, Infallible>) -> Vec<u32> {
        ids.unwrap().into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn a_completion_is_bos_and_text() {
        assert_eq!(numbers(completion(encode, "ab")), [2, 1097, 1098]);
        assert_eq!(numbers(completion(encode, "")), [2]);
    }

    #[test]
    fn infilling_puts_the_suffix_before_the_middle() {
        assert_eq!(numbers(infill(encode, "a", "b")), [2, 67, 1097, 69, 1098, 68]);
        assert_eq!(numbers(infill(encode, "", "b")), [2, 67, 69, 1098, 68]);
    }

    #[test]
    fn an_empty_suffix_becomes_a_newline() {
        assert_eq!(numbers(infill(encode, "a", "")), [2, 67, 1097, 69, 1010, 68]);
    }

    #[test]
    fn a_failing_encoder_is_passed_on() {
        assert_eq!(completion(|_| Err("no"), "a"), Err("no"));
        assert_eq!(infill(|_| Err("no"), "a", "b"), Err("no"));
    }
}
