//! Blanks between the words of an instruction.

/// What separates the words of an instruction; a no-break space does not.
pub(super) fn is_blank(c: char) -> bool {
    ['\t', '\u{b}', '\u{c}', '\r', ' '].contains(&c)
}

/// The text before the first blanks, and after them.
pub(super) fn split_once_blank(text: &str) -> Option<(&str, &str)> {
    let (first, rest) = text.split_once(is_blank)?;
    Some((first, rest.trim_start_matches(is_blank)))
}
