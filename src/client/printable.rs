//! Text from outside, escaped for a terminal and its reader.
//!
//! Printable ASCII is shown as it is, everything else by its number: not only what steers a terminal, but also what
//! reorders text (bidirectional controls), hides in it (zero width), breaks lines, or looks like another letter.

use std::fmt::Write as _;

use serde_json::Value;

/// The longest text that is shown, in characters.
pub(super) const MAX_CHARS: usize = 300;

/// `text` in printable ASCII: other characters and backslashes are escaped as in Rust, and what is beyond
/// [`MAX_CHARS`] is cut, which three dots show.
pub(super) fn printable(text: &str) -> String {
    let mut shown = escaped(text.chars().take(MAX_CHARS));
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

/// The same without an end, for what must not be cut.
pub(super) fn escaped(text: impl Iterator<Item = char>) -> String {
    let mut shown = String::new();
    for character in text {
        match character {
            '\\' => shown.push_str("\\\\"),
            ' '..='~' => shown.push(character),
            _ => shown.extend(character.escape_default()),
        }
    }
    shown
}

/// JSON for programs, indented, in which every character of a text that is no printable ASCII is escaped.
pub(super) fn ascii_json(value: &Value) -> String {
    let mut shown = String::new();
    for character in format!("{value:#}").chars() {
        // Outside of texts JSON has none but ASCII; line feeds are its own, those of texts are escaped already.
        if matches!(character, '\n' | ' '..='~') {
            shown.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            // Writing to a `String` cannot fail.
            write!(shown, "\\u{unit:04x}").ok();
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Controls, overrides and isolates, marks without width, breaks of lines, a tag, a private letter, a homoglyph.
    const HOSTILE: &str = "\0\x07\x08\t\r\n\x1b[2J\x7f\u{85}\u{9b}31m\u{ad}\u{61c}\u{180e}\u{200b}\u{200d}\u{200e}\u{200f}\
        \u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}\u{fe0f}\
        \u{fff9}\u{e0041}\u{e000}\u{115f}\u{3164}\u{301}\u{430}\u{1f980}";

    fn is_printable_ascii(text: &str) -> bool {
        text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    }

    #[test]
    fn what_is_not_printable_ascii_is_shown_by_its_number() {
        assert_eq!(printable("a 'b' \"c\" ~"), "a 'b' \"c\" ~");
        assert_eq!(printable("\u{202e}\x1b[2J\n"), "\\u{202e}\\u{1b}[2J\\n");
        // A backslash of the text's own cannot be taken for an escape.
        assert_eq!(printable("\\u{202e}"), "\\\\u{202e}");
        assert!(is_printable_ascii(&printable(HOSTILE)));
        assert!(HOSTILE.chars().filter(|c| !matches!(c, ' '..='~')).all(|c| !printable(HOSTILE).contains(c)));
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let exact = "x".repeat(MAX_CHARS);
        assert_eq!(printable(&exact), exact);
        assert_eq!(printable(&"x".repeat(MAX_CHARS + 1)), format!("{exact}..."));
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = json!({ "a": [HOSTILE, 1, null, { "\u{202e}": true }] });
        let shown = ascii_json(&value);
        assert!(shown.lines().all(is_printable_ascii), "{shown}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), value);
    }

    proptest! {
        #[test]
        fn any_text_is_shown_in_printable_ascii(text in ".*") {
            prop_assert!(is_printable_ascii(&printable(&text)));
            let json = ascii_json(&Value::from(text.as_str()));
            prop_assert!(is_printable_ascii(&json));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
