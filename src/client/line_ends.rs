//! Line ends: the model sees `\n` only, and a completion has those of the text that it goes into.
//!
//! A `\r` without `\n` behind it is no line end and stays as it is.

use crate::secret::Secret;

/// How the lines of a text end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnds {
    /// `\n`
    Lf,
    /// `\r\n`
    CrLf,
}

/// Gives a completion, which comes in pieces, the line ends of the text that it goes into.
#[derive(Debug)]
pub(crate) struct Restorer {
    ends: LineEnds,
    /// Whether the last piece ended with `\r`.
    after_cr: bool,
}

impl LineEnds {
    /// Those of most lines of `text`; if there are as many of both, those of the first line.
    pub fn of(text: &str) -> Self {
        let all = text.matches('\n').count();
        let crlf = text.matches("\r\n").count();
        match (2 * crlf).cmp(&all) {
            std::cmp::Ordering::Less => Self::Lf,
            std::cmp::Ordering::Greater => Self::CrLf,
            std::cmp::Ordering::Equal => {
                let first = text.split_once('\n').map(|(line, _)| line);
                if first.is_some_and(|line| line.ends_with('\r')) { Self::CrLf } else { Self::Lf }
            }
        }
    }
}

/// `text` with `\n` for each `\r\n`.
pub(crate) fn to_lf(text: &str) -> Secret<String> {
    // The final capacity at once: growing would leave unwiped copies behind.
    let mut lf = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\r\n") {
        lf.push_str(before);
        lf.push('\n');
        rest = after;
    }
    lf.push_str(rest);
    Secret::new(lf)
}

impl Restorer {
    pub(crate) fn new(ends: LineEnds) -> Self {
        Self { ends, after_cr: false }
    }

    /// The next piece. A `\r\n` that the model wrote by itself is not doubled, even if it comes in two pieces.
    pub(crate) fn restore(&mut self, piece: &str) -> Secret<String> {
        let mut text = String::with_capacity(2 * piece.len());
        for character in piece.chars() {
            if character == '\n' && self.ends == LineEnds::CrLf && !self.after_cr {
                text.push('\r');
            }
            text.push(character);
            self.after_cr = character == '\r';
        }
        Secret::new(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn most_lines_decide_and_then_the_first() {
        use LineEnds::{CrLf, Lf};
        for (text, expected) in [
            ("", Lf),
            ("a", Lf),
            ("a\n", Lf),
            ("a\r\n", CrLf),
            ("a\rb\r", Lf),
            ("a\r\nb\nc\n", Lf),
            ("a\nb\r\nc\r\n", CrLf),
            ("a\r\nb\n", CrLf),
            ("a\nb\r\n", Lf),
        ] {
            assert_eq!(LineEnds::of(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_lone_cr_is_no_line_end() {
        assert_eq!(to_lf("a\rb\r\r\nc\r\n\r").expose(), "a\rb\r\nc\n\r");
    }

    proptest! {
        #[test]
        fn what_was_lf_comes_back_as_it_was(lines in prop::collection::vec("[ab\t]{0,4}", 0..6), cut in 0usize..30) {
            let text = lines.iter().map(|line| format!("{line}\r\n")).collect::<String>();
            let lf = to_lf(&text);
            prop_assert!(!lf.expose().contains('\r'));
            let (before, after) = lf.expose().split_at(cut.min(lf.expose().len()));
            let mut restorer = Restorer::new(LineEnds::CrLf);
            let restored = [before, after].map(|piece| restorer.restore(piece).expose().clone()).concat();
            prop_assert_eq!(&restored, &text);
            // What has CRLF already is left alone, wherever it is cut.
            let (before, after) = text.split_at(cut.min(text.len()));
            let mut restorer = Restorer::new(LineEnds::CrLf);
            prop_assert_eq!([before, after].map(|piece| restorer.restore(piece).expose().clone()).concat(), text.as_str());
            let same = Restorer::new(LineEnds::Lf).restore(lf.expose());
            prop_assert_eq!(same.expose(), lf.expose());
        }
    }
}
