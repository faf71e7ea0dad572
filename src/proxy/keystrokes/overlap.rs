//! Takes the end off a completion that repeats what stands after the cursor, such as a closing bracket.
//!
//! An overlap is taken off only if brackets and quotes fit better without it, or if it repeats the whole rest of the
//! line.

use super::{head, tail};
use crate::secret::Secret;

/// How much text before and after the hole is looked at to balance brackets, in bytes.
const BALANCE_BYTES: usize = 4096;
/// The longest overlap, in bytes.
const MAX_OVERLAP_BYTES: usize = 512;

/// Trims one answer, whole or piece by piece.
#[derive(Debug)]
pub(crate) struct Trimmer {
    before: Secret<String>,
    suffix: Secret<String>,
    /// Whether the answer is for one line only.
    single_line: bool,
    text: Secret<String>,
    /// Bytes of the text that have been passed on.
    passed: usize,
}

impl Trimmer {
    /// For an answer between `before` and `suffix`.
    pub(crate) fn new(before: &str, suffix: &str, single_line: bool) -> Self {
        let owned = |text: &str| Secret::new(text.to_owned());
        Self {
            before: owned(tail(before, BALANCE_BYTES)),
            suffix: owned(head(suffix, BALANCE_BYTES)),
            single_line,
            text: Secret::default(),
            passed: 0,
        }
    }

    /// Takes the next piece: what of the text can be passed on, because it cannot be part of an overlap.
    pub(crate) fn push(&mut self, piece: &str) -> Secret<String> {
        self.text.append(piece);
        let held = overlaps(self.text.expose(), self.reach()).next().map_or(0, str::len);
        self.pass(self.text.expose().len() - held)
    }

    /// The rest of the text, without an overlap.
    pub(crate) fn finish(&mut self) -> Secret<String> {
        let text = self.text.expose();
        let kept = overlaps(text, self.reach())
            .find(|overlap| self.is_repeated(overlap))
            .map_or(text.len(), |overlap| text.len() - overlap.len());
        self.pass(kept)
    }

    fn pass(&mut self, to: usize) -> Secret<String> {
        let piece = self.text.expose().get(self.passed..to).unwrap_or_default().to_owned();
        self.passed = self.passed.max(to);
        Secret::new(piece)
    }

    /// The part of the suffix that may be repeated.
    fn reach(&self) -> &str {
        let suffix = head(self.suffix.expose(), MAX_OVERLAP_BYTES);
        if self.single_line { line(suffix) } else { suffix }
    }

    /// Whether the text is better without `overlap` at its end.
    fn is_repeated(&self, overlap: &str) -> bool {
        if overlap.trim().is_empty() {
            return false;
        }
        let (before, text, suffix) = (self.before.expose(), self.text.expose(), self.suffix.expose());
        let Some(trimmed) = text.strip_suffix(overlap) else { return false };
        let faults = |text: &str| {
            let whole = Secret::new([before.as_str(), text, suffix.as_str()].concat());
            unbalanced(whole.expose()) + odd_quotes(before, text, suffix)
        };
        let (with, without) = (faults(text), faults(trimmed));
        let whole_lines = suffix.get(overlap.len()..).is_some_and(|rest| line(rest).trim().is_empty());
        let separators = overlap.trim().chars().all(|character| matches!(character, ',' | ';'));
        without < with || without == with && (whole_lines || separators)
    }
}

/// The text up to the end of its first line.
fn line(text: &str) -> &str {
    text.split(['\n', '\r']).next().unwrap_or_default()
}

/// The beginnings of `reach` that `text` ends with, the longest first.
fn overlaps<'a>(text: &'a str, reach: &'a str) -> impl Iterator<Item = &'a str> {
    let ends = reach.char_indices().map(|(at, character)| at + character.len_utf8()).rev();
    ends.filter_map(move |end| reach.get(..end)).filter(move |overlap| text.ends_with(overlap))
}

/// How many brackets in `text` have no partner.
fn unbalanced(text: &str) -> usize {
    let (mut open, mut alone) = (Vec::new(), 0);
    for character in text.chars() {
        let opener = match character {
            '(' | '[' | '{' => {
                open.push(character);
                continue;
            }
            ')' => '(',
            ']' => '[',
            '}' => '{',
            _ => continue,
        };
        if open.last() == Some(&opener) {
            open.pop();
        } else {
            alone += 1;
        }
    }
    open.len() + alone
}

/// How many kinds of quotes have no partner on the lines that `text` is on.
fn odd_quotes(before: &str, text: &str, suffix: &str) -> usize {
    let start = before.rsplit('\n').next().unwrap_or_default();
    let is_odd = |quote: &&char| {
        let counts = [start, text, line(suffix)].map(|part| part.matches(**quote).count());
        counts.iter().sum::<usize>() % 2 == 1
    };
    ['"', '\'', '`'].iter().filter(is_odd).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trimmed(before: &str, text: &str, suffix: &str) -> String {
        let mut trimmer = Trimmer::new(before, suffix, !text.contains('\n'));
        let whole = [trimmer.push(text), trimmer.finish()].map(|piece| piece.expose().clone()).concat();
        // Piece by piece it is the same.
        let mut trimmer = Trimmer::new(before, suffix, !text.contains('\n'));
        let mut pieces = String::new();
        for character in text.chars() {
            pieces += trimmer.push(&character.to_string()).expose();
            assert!(text.starts_with(&pieces));
        }
        pieces += trimmer.finish().expose();
        assert_eq!(pieces, whole, "{before} {text} {suffix}");
        whole
    }

    #[test]
    fn what_stands_after_the_cursor_is_not_repeated() {
        for (before, text, suffix, expected) in [
            ("foo(", "a, b)", ")\n", "a, b"),
            ("foo(", "a, b);", ");\n", "a, b"),
            ("bar(foo(", "x))", ")\n", "x)"),
            ("if (", "x) {", ") {\n", "x"),
            ("x = [", "1, 2]", "]\n", "1, 2"),
            ("x = \"", "abc\"", "\"\n", "abc"),
            ("x = f(\"", "abc\")", "\")\n", "abc"),
            ("foo(a", ",", ", b)\n", ""),
            ("let x = 1", ";", ";\n", ""),
            ("if x then ", "foo end", " end\n", "foo"),
            ("return ", "a + b # sum", "b # sum\n", "a + "),
            ("wert(", "\u{fc}ber)", ")\n", "\u{fc}ber"),
            // Over several lines.
            ("fn f() {\n    g(", "1);\n}", "\n}\n", "1);"),
            ("fn f() {\n    g(", "\n        1,\n    )", ")\n}\n", "\n        1,\n    "),
        ] {
            assert_eq!(trimmed(before, text, suffix), expected, "{before} {text} {suffix}");
        }
    }

    #[test]
    fn what_is_needed_stays() {
        for (before, text, suffix) in [
            // Each bracket has its partner.
            ("bar(", "foo(x)", ")\n"),
            ("bar(foo(", "x)", ")\n"),
            ("bar(\n    foo(\n        ", "x)", ")\n"),
            ("x = ", "f(\"a\")", "\n"),
            ("x = {", "\"a\": [1]", "}\n"),
            // Another word that begins alike.
            ("y = ", "max", "x + 1\n"),
            ("    ", "return x", "\n    return y\n"),
            ("a = ", "b", "\n"),
            ("a = ", "b\n", "\nc = d\n"),
            ("a = ", "b", ""),
        ] {
            assert_eq!(trimmed(before, text, suffix), text, "{before} {text} {suffix}");
        }
    }

    #[test]
    fn an_answer_for_one_line_is_trimmed_up_to_its_end_only() {
        let mut trimmer = Trimmer::new("f(\n", ")\n}\n", true);
        let whole = [trimmer.push("a)\n}\n"), trimmer.finish()].map(|piece| piece.expose().clone()).concat();
        assert_eq!(whole, "a)\n}\n");
    }
}
