//! Where a hole begins: how much of the text before the cursor is sent as `middle` instead of `prompt`.
//!
//! Pure.

use serde::Serialize;

/// The longest text behind the middle marker, in bytes: holes that models are trained on are seldom longer.
pub const MAX_MIDDLE_BYTES: usize = 1024;
/// How many lines above the cursor's may be behind the middle marker.
pub const MAX_MIDDLE_LINES: usize = 8;

/// Where a hole begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HoleStart {
    /// At the cursor: all text before it is the prefix.
    #[default]
    Cursor,
    /// At the beginning of the cursor's line: typing within a line leaves prefix and suffix as they are.
    Line,
    /// At the beginning of the line that was typed first, up to 8 lines above the cursor's: a new line leaves them as they
    /// are, too.
    Lines,
}

/// The beginning of the line that is `lines` lines above the cursor's in `before`, the text before the cursor; of a later
/// line if [`MAX_MIDDLE_BYTES`] or the text's beginning are nearer. The cursor itself, if its own line is too long.
pub fn line_start(before: &str, lines: usize) -> usize {
    let near = before.len().saturating_sub(MAX_MIDDLE_BYTES);
    let ends = before.rmatch_indices('\n').map(|(at, _)| at + 1).chain(std::iter::once(0));
    ends.take(lines + 1).take_while(|&at| at >= near).last().unwrap_or(before.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_upwards_from_the_cursors() {
        let text = "one\ntwo\n\nfour";
        let from = |lines| text.get(line_start(text, lines)..).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(from), ["four", "\nfour", "two\n\nfour", text, text]);
        assert_eq!(line_start("", 3), 0);
        assert_eq!(line_start("x\n", 0), 2);
    }

    #[test]
    fn a_text_that_is_too_long_does_not_go_behind_the_marker() {
        let fits = format!("a\n{}", "x".repeat(MAX_MIDDLE_BYTES));
        assert_eq!([0, 1].map(|lines| line_start(&fits, lines)), [2, 2]);
        let long = format!("{fits}x");
        assert_eq!([0, 8].map(|lines| line_start(&long, lines)), [long.len(); 2]);
        // Within a character that has several bytes.
        let wide = format!("a\n{}\nb", "가".repeat(400));
        assert_eq!(line_start(&wide, 8), wide.len() - 1);
    }
}
