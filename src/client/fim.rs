//! A cursor in a file: where it splits the text, and how much of both sides is sent.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

/// The text after the cursor gets at least one part in this many of the budget.
const SUFFIX_SHARE: usize = 4;

/// `FILE:LINE:COL`. Lines and columns count from 1, columns in characters (Unicode scalar values), as editors do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The file.
    pub file: PathBuf,
    /// Its line.
    pub line: NonZeroUsize,
    /// The character that the cursor stands before; one past the last is the end of the line.
    pub column: NonZeroUsize,
}

/// Why there is no such cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not of the form `FILE:LINE:COL`.
    #[error("must be FILE:LINE:COL, lines and columns counted from 1")]
    Form,
    /// The file has fewer lines.
    #[error("the file has no line {line}: it has {lines}")]
    Line {
        /// The one asked for.
        line: usize,
        /// As many as there are.
        lines: usize,
    },
    /// The line has fewer characters.
    #[error("line {line} has no column {column}: its end is column {end}")]
    Column {
        /// The line asked for.
        line: usize,
        /// The column asked for.
        column: usize,
        /// The last one that a cursor can stand at.
        end: usize,
    },
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        // From the right: a path may hold colons.
        let mut parts = text.rsplitn(3, ':');
        let mut number = || parts.next()?.parse().ok();
        let (column, line) = (number(), number());
        match (parts.next(), line, column) {
            (Some(file), Some(line), Some(column)) if !file.is_empty() => {
                Ok(Self { file: file.into(), line, column })
            }
            _ => Err(CursorError::Form),
        }
    }
}

/// Splits `text` at a cursor. A line ends at `\n` or `\r\n`, which no cursor can stand within.
///
/// # Errors
/// [`CursorError`] if there is no such line or column.
pub(super) fn split(
    text: &str,
    line: NonZeroUsize,
    column: NonZeroUsize,
) -> Result<(&str, &str), CursorError> {
    let (line, column) = (line.get(), column.get());
    // Unlike `lines`, this counts the empty line after a final newline: a cursor can stand there.
    let mut rest = text.split('\n');
    let Some(whole) = rest.by_ref().nth(line - 1) else {
        return Err(CursorError::Line { line, lines: text.split('\n').count() });
    };
    let is_last = rest.next().is_none();
    let content = if is_last { whole } else { whole.strip_suffix('\r').unwrap_or(whole) };
    let in_line = content.char_indices().map(|(at, _)| at).chain([content.len()]).nth(column - 1);
    let Some(in_line) = in_line else {
        return Err(CursorError::Column { line, column, end: content.chars().count() + 1 });
    };
    let start: usize = text.split('\n').take(line - 1).map(|before| before.len() + 1).sum();
    Ok(text.split_at(start + in_line))
}

/// Cuts both sides down to `budget` bytes together, at line boundaries where there are any.
///
/// What one side does not use, the other may.
pub(super) fn fit<'a>(prefix: &'a str, suffix: &'a str, budget: usize) -> (&'a str, &'a str) {
    let after = suffix.len().min((budget / SUFFIX_SHARE).max(budget.saturating_sub(prefix.len())));
    (tail(prefix, budget - after), head(suffix, after))
}

/// The last whole lines of `text` within `max` bytes; of a single long line, its end.
fn tail(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let at = text.ceil_char_boundary(text.len() - max);
    let (before, kept) = text.split_at(at);
    if before.ends_with('\n') {
        return kept;
    }
    match kept.split_once('\n') {
        Some((_, lines)) => lines,
        None => kept,
    }
}

/// The first whole lines of `text` within `max` bytes; of a single long line, its beginning.
fn head(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let (kept, after) = text.split_at(text.floor_char_boundary(max));
    match kept.rfind('\n') {
        // Not between `\r` and `\n`, and not an empty rest of the cursor's own line.
        Some(at) => text.split_at(at + 1).0,
        None if after.starts_with('\n') => kept.strip_suffix('\r').unwrap_or(kept),
        None => kept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, line: usize, column: usize) -> Result<(&str, &str), CursorError> {
        split(text, NonZeroUsize::new(line).unwrap(), NonZeroUsize::new(column).unwrap())
    }

    #[test]
    fn a_cursor_is_read_from_the_right() {
        let cursor: Cursor = r"C:\a b.rs:12:3".parse().unwrap();
        assert_eq!((cursor.file, cursor.line.get(), cursor.column.get()), (r"C:\a b.rs".into(), 12, 3));
        for wrong in ["a.rs", "a.rs:1", "a.rs:0:1", "a.rs:1:0", ":1:1", "a.rs:1:x", "a.rs:-1:1", ""] {
            assert_eq!(wrong.parse::<Cursor>(), Err(CursorError::Form), "{wrong}");
        }
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        assert_eq!(at("한국어 🦀 x", 1, 4).unwrap(), ("한국어", " 🦀 x"));
        assert_eq!(at("한국어 🦀 x", 1, 6).unwrap(), ("한국어 🦀", " x"));
        assert_eq!(at("한국어", 1, 4).unwrap(), ("한국어", ""));
    }

    #[test]
    fn the_end_of_a_line_is_before_its_line_ending() {
        assert_eq!(at("ab\ncd\n", 1, 3).unwrap(), ("ab", "\ncd\n"));
        assert_eq!(at("ab\r\ncd\r\n", 1, 3).unwrap(), ("ab", "\r\ncd\r\n"));
        assert_eq!(at("ab\r\ncd\r\n", 2, 1).unwrap(), ("ab\r\n", "cd\r\n"));
        // A lone `\r` at the end of the file ends no line.
        assert_eq!(at("ab\r", 1, 4).unwrap(), ("ab\r", ""));
    }

    #[test]
    fn the_empty_line_at_the_end_is_a_line() {
        assert_eq!(at("ab\n", 2, 1).unwrap(), ("ab\n", ""));
        assert_eq!(at("", 1, 1).unwrap(), ("", ""));
    }

    #[test]
    fn a_cursor_outside_the_text_is_told_where_the_text_ends() {
        assert_eq!(at("ab\r\ncd", 1, 4), Err(CursorError::Column { line: 1, column: 4, end: 3 }));
        assert_eq!(at("ab\ncd", 3, 1), Err(CursorError::Line { line: 3, lines: 2 }));
    }

    #[test]
    fn any_position_splits_without_loss() {
        let text = "fn 가() {\r\n\t🦀\n}\n";
        for line in 1..=4 {
            for column in 1..=10 {
                if let Ok((prefix, suffix)) = at(text, line, column) {
                    assert_eq!(format!("{prefix}{suffix}"), text);
                }
            }
        }
    }

    #[test]
    fn what_fits_is_sent_whole() {
        assert_eq!(fit("abc", "def", 6), ("abc", "def"));
        assert_eq!(fit("", "", 0), ("", ""));
    }

    #[test]
    fn a_side_may_use_what_the_other_leaves() {
        assert_eq!(fit("aaaaaa", "b", 5), ("aaaa", "b"));
        assert_eq!(fit("a", "bbbbbb", 5), ("a", "bbbb"));
        assert_eq!(fit("aaaaaaaa", "bbbbbbbb", 8), ("aaaaaa", "bb"));
    }

    #[test]
    fn cuts_are_made_at_line_boundaries() {
        assert_eq!(tail("one\ntwo\nthree", 9), "two\nthree");
        assert_eq!(tail("one\ntwo\nthree", 8), "three");
        assert_eq!(tail("one\ntwo\nthree", 3), "ree");
        assert_eq!(head("one\ntwo\nthree", 9), "one\ntwo\n");
        assert_eq!(head("one\ntwo\nthree", 7), "one\n");
        assert_eq!(head("one\r\ntwo", 4), "one");
        assert_eq!(head("한국어", 4), "한");
        assert_eq!(tail("한국어", 4), "어");
    }
}
