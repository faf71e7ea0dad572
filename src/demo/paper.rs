//! The demo's output as plain text: steps, wrapped sentences, aligned fields, code.

use std::io::{self, Write};

/// The width that sentences are wrapped to, in characters.
const WIDTH: usize = 92;
/// How long a value may be before its middle is left out, in characters.
const MAX_VALUE: usize = 68;
/// The width of a field's name, in characters.
const NAME: usize = 23;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

/// Where the demo is written.
pub(super) struct Paper<'a> {
    out: &'a mut dyn Write,
    colour: bool,
}

impl<'a> Paper<'a> {
    /// Text to `out`; escape sequences only with `colour`.
    pub(super) fn new(out: &'a mut dyn Write, colour: bool) -> Self {
        Self { out, colour }
    }

    /// The heading of everything.
    pub(super) fn title(&mut self, text: &str) -> io::Result<()> {
        let text = self.styled(BOLD, text);
        writeln!(self.out, "{text}")
    }

    /// The heading of a step.
    pub(super) fn step(&mut self, number: usize, text: &str) -> io::Result<()> {
        let heading = self.styled(BOLD, &format!("{number}. {text}"));
        writeln!(self.out, "\n{heading}")
    }

    /// A paragraph.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        for line in wrap(text, WIDTH) {
            writeln!(self.out, "   {line}")?;
        }
        Ok(())
    }

    /// A name and its value, shortened if it is long.
    pub(super) fn field(&mut self, name: &str, value: &str) -> io::Result<()> {
        let name = self.styled(DIM, &format!("{name:<NAME$}"));
        writeln!(self.out, "     {name} {}", shorten(value))
    }

    /// Text as it is, behind a bar.
    pub(super) fn quote(&mut self, text: &str) -> io::Result<()> {
        let bar = self.styled(DIM, "│");
        for line in text.split('\n') {
            writeln!(self.out, "     {bar} {}", printable(line))?;
        }
        Ok(())
    }

    /// Something was checked, and holds.
    pub(super) fn holds(&mut self, text: &str) -> io::Result<()> {
        self.verdict(GREEN, "✓", text)
    }

    /// A request was refused, as it should be.
    pub(super) fn refused(&mut self, text: &str) -> io::Result<()> {
        self.verdict(RED, "✗", text)
    }

    fn verdict(&mut self, colour: &str, sign: &str, text: &str) -> io::Result<()> {
        let mut sign = self.styled(colour, sign);
        for line in wrap(text, WIDTH - 2) {
            writeln!(self.out, "   {sign} {line}")?;
            sign = String::from(" ");
        }
        Ok(())
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Breaks `text` at spaces into lines of at most `width` characters; a longer word has a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let Some(line) = lines.last_mut() else { break };
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// `text` without its middle if it is long, and how long it is.
fn shorten(text: &str) -> String {
    let count = text.chars().count();
    if count <= MAX_VALUE {
        return printable(text);
    }
    let head: String = text.chars().take(40).collect();
    let tail: String = text.chars().skip(count - 8).collect();
    format!("{}…{} ({count} characters)", printable(&head), printable(&tail))
}

/// What could steer a terminal is shown as a sign of its own.
fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\t' => ' ',
            other if other.is_control() => '\u{fffd}',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_wrapped_and_long_words_kept() {
        assert_eq!(wrap("aa bb cc", 5), ["aa bb", "cc"]);
        assert_eq!(wrap("a bbbbbbbb c", 5), ["a", "bbbbbbbb", "c"]);
    }

    #[test]
    fn a_long_value_keeps_its_ends() {
        let text = format!("{}{}", "a".repeat(90), "12345678");
        assert_eq!(shorten(&text), format!("{}…12345678 (98 characters)", "a".repeat(40)));
    }

    #[test]
    fn there_is_no_escape_sequence_without_colour() {
        for (colour, escapes) in [(false, false), (true, true)] {
            let mut out = Vec::new();
            let mut paper = Paper::new(&mut out, colour);
            paper.step(1, "x").unwrap();
            paper.quote("\x1b[2J").unwrap();
            assert_eq!(out.contains(&0x1b), escapes);
        }
    }
}
