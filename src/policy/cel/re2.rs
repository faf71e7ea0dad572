//! `matches`: RE2's patterns, translated for the `regex` crate; [`super::re2_parse`] parses them.
//!
//! What RE2 rejects is an error here; `\d`, `\w`, `\s` and `\b` are ASCII, as RE2's. Whether a text matches does not
//! depend on captures and greediness, so both are dropped. Patterns with Unicode tables are decided for ASCII texts
//! alone, because the tables' versions differ.

use super::Reason;
use super::re2_parse::{Parsed, parse};
use super::stop::Stop;

/// RE2 gives up on programs of some 300,000 instructions; this many are certainly fine.
const MAX_INSTRUCTIONS: u64 = 20_000;

/// A compiled pattern.
pub(super) struct Pattern {
    regex: regex::bytes::Regex,
    size: u64,
    /// It refers to Unicode tables.
    tables: bool,
}

impl Pattern {
    /// Compiles `pattern`, or says with which error the engine refuses it.
    pub(super) fn compile(pattern: &str) -> Result<Self, Stop> {
        let Parsed { node, tables } = parse(pattern)?;
        let size = node.size();
        let too_large = || {
            Stop::undecided(
                Reason::PatternSize,
                "the pattern is so large that Google's engine may refuse it: make it smaller",
            )
        };
        if size > MAX_INSTRUCTIONS {
            return Err(too_large());
        }
        let mut translated = String::new();
        node.translate(&mut translated);
        let regex = regex::bytes::Regex::new(&translated).map_err(|_| too_large())?;
        Ok(Self { regex, size, tables })
    }

    /// Instructions, roughly.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether the pattern occurs in `text`.
    pub(super) fn matches(&self, text: &str) -> Result<bool, Stop> {
        if self.tables && !text.is_ascii() {
            return Err(Stop::undecided(
                Reason::UnicodeTables,
                "a pattern with \\p or (?i) on text outside ASCII depends on the version of Unicode: use explicit ranges",
            ));
        }
        Ok(self.regex.is_match(text.as_bytes()))
    }
}
