//! Plain continuation and fill-in-the-middle.

use super::control::{BOS, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX};
use crate::token::TokenId;

/// What an empty suffix is replaced by: the model was trained on gaps with something behind them, and a file ends
/// in a newline.
pub(super) const END_OF_FILE: &str = "\n";

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
    let (prefix, suffix) = encode_apart(encode, prefix, suffix)?;
    Ok(template(&prefix, &suffix))
}

/// As [`infill`], shortened to `room` tokens where the text is longer; also says whether it was.
///
/// What is nearest to the cursor stays: the prefix loses its beginning, the suffix its end. A quarter of the room
/// belongs to the suffix and the rest to the prefix; what one of them does not need is the other's. The control
/// tokens are there even if there is no room for them.
///
/// # Errors
/// Those of `encode`.
pub fn infill_within<E>(
    encode: impl Fn(&str) -> Result<Vec<TokenId>, E>,
    prefix: &str,
    suffix: &str,
    room: usize,
) -> Result<(Vec<TokenId>, bool), E> {
    let (prefix, suffix) = encode_apart(encode, prefix, suffix)?;
    let room = room.saturating_sub(template(&[], &[]).len());
    let for_suffix = suffix.len().min((room / 4).max(room.saturating_sub(prefix.len())));
    let for_prefix = prefix.len().min(room - for_suffix);
    let end = prefix.get(prefix.len() - for_prefix..).unwrap_or_default();
    let beginning = suffix.get(..for_suffix).unwrap_or_default();
    let shortened = end.len() < prefix.len() || beginning.len() < suffix.len();
    Ok((template(end, beginning), shortened))
}

fn encode_apart<E>(
    encode: impl Fn(&str) -> Result<Vec<TokenId>, E>,
    prefix: &str,
    suffix: &str,
) -> Result<(Vec<TokenId>, Vec<TokenId>), E> {
    let suffix = if suffix.is_empty() { END_OF_FILE } else { suffix };
    Ok((encode(prefix)?, encode(suffix)?))
}

fn template(prefix: &[TokenId], suffix: &[TokenId]) -> Vec<TokenId> {
    [&[BOS, FIM_PREFIX], prefix, &[FIM_SUFFIX], suffix, &[FIM_MIDDLE]].concat()
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
    fn what_is_far_from_the_cursor_is_cut_first() {
        let within = |prefix, suffix, room| {
            let (ids, shortened) = infill_within(encode, prefix, suffix, room).unwrap();
            let text = ids.into_iter().map(|TokenId(id)| match id {
                67.. => char::from_u32(id.checked_sub(1000).unwrap_or(u32::from(b'|'))).unwrap(),
                _ => '^',
            });
            (text.collect::<String>(), shortened)
        };
        let expect = |text: &str, shortened| (text.to_owned(), shortened);
        assert_eq!(within("abcdefgh", "stuvwxyz", 20), expect("^|abcdefgh|stuvwxyz|", false));
        // Both are long: three quarters and one.
        assert_eq!(within("abcdefgh", "stuvwxyz", 12), expect("^|cdefgh|st|", true));
        assert_eq!(within("abcdefgh", "stuvwxyz", 11), expect("^|cdefgh|s|", true));
        // What one does not need is the other's.
        assert_eq!(within("ab", "stuvwxyz", 12), expect("^|ab|stuvwx|", true));
        assert_eq!(within("abcdefgh", "s", 12), expect("^|bcdefgh|s|", true));
        for room in 0..=4 {
            assert_eq!(within("ab", "st", room), expect("^|||", true));
        }
        assert_eq!(within("", "", 5), expect("^||\n|", false));
    }

    #[test]
    fn a_failing_encoder_is_passed_on() {
        assert_eq!(completion(|_| Err("no"), "a"), Err("no"));
        assert_eq!(infill(|_| Err("no"), "a", "b"), Err("no"));
    }
}
