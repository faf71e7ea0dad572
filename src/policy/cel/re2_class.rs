//! Character classes of patterns, as RE2 has them.

use super::Reason;
use super::stop::Stop;

type Range = (u32, u32);

const DIGIT: &[Range] = &[(0x30, 0x39)];
const SPACE: &[Range] = &[(0x9, 0xA), (0xC, 0xD), (0x20, 0x20)];
const WORD: &[Range] = &[(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)];
const LAST: u32 = 0x10_FFFF;

const POSIX: [(&str, &[Range]); 14] = [
    ("alnum", &[(0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)]),
    ("alpha", &[(0x41, 0x5A), (0x61, 0x7A)]),
    ("ascii", &[(0, 0x7F)]),
    ("blank", &[(0x9, 0x9), (0x20, 0x20)]),
    ("cntrl", &[(0, 0x1F), (0x7F, 0x7F)]),
    ("digit", DIGIT),
    ("graph", &[(0x21, 0x7E)]),
    ("lower", &[(0x61, 0x7A)]),
    ("print", &[(0x20, 0x7E)]),
    ("punct", &[(0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)]),
    ("space", &[(0x9, 0xD), (0x20, 0x20)]),
    ("upper", &[(0x41, 0x5A)]),
    ("word", WORD),
    ("xdigit", &[(0x30, 0x39), (0x41, 0x46), (0x61, 0x66)]),
];

/// General categories and some scripts that both RE2 and the `regex` crate have.
const GROUPS: [&str; 47] = [
    "Any", "C", "Cc", "Cf", "Co", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl",
    "No", "P", "Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
    "Latin", "Greek", "Cyrillic", "Han", "Hiragana", "Katakana", "Arabic", "Hebrew", "Hangul", "Thai",
    "Common",
];

/// A set of characters.
#[derive(Default)]
pub(super) struct Class {
    pub(super) negated: bool,
    ranges: Vec<Range>,
    /// Names of Unicode groups, and whether what is outside of them is meant.
    groups: Vec<(&'static str, bool)>,
}

/// `\d` and the like: the ranges, and whether what is outside of them is meant.
pub(super) fn perl_class(name: char) -> Option<(&'static [Range], bool)> {
    Some(match name {
        'd' => (DIGIT, false),
        'D' => (DIGIT, true),
        's' => (SPACE, false),
        'S' => (SPACE, true),
        'w' => (WORD, false),
        'W' => (WORD, true),
        _ => return None,
    })
}

impl Class {
    /// Adds `ranges`, which are in order, or what is outside of them.
    pub(super) fn add(&mut self, ranges: &[Range], negated: bool, fold: bool) {
        if !negated {
            self.ranges.extend_from_slice(ranges);
            return;
        }
        let mut from = 0;
        let mut outside = Vec::new();
        for &(low, high) in ranges {
            if low > from {
                outside.push((from, low - 1));
            }
            from = high + 1;
        }
        outside.push((from, LAST));
        if !fold {
            self.ranges.extend(outside);
            return;
        }
        // ſ and the Kelvin sign fold to letters: with (?i) they belong to what is left out.
        for (low, high) in outside {
            let mut from = low;
            for letter in [0x17F, 0x212A] {
                if (from..=high).contains(&letter) {
                    self.ranges.push((from, letter - 1));
                    from = letter + 1;
                }
            }
            self.ranges.push((from, high));
        }
    }

    /// `[:name:]`.
    pub(super) fn add_posix(&mut self, name: &str, fold: bool) -> Result<(), Stop> {
        let (plain, negated) = name.strip_prefix('^').map_or((name, false), |plain| (plain, true));
        let known = POSIX.iter().find(|(known, _)| *known == plain);
        let (_, ranges) = known
            .ok_or_else(|| Stop::error(format!("the pattern is invalid: there is no class [:{name}:]")))?;
        self.add(ranges, negated, fold);
        Ok(())
    }

    /// `\p{name}`.
    pub(super) fn add_group(&mut self, name: &str, negated: bool, fold: bool) -> Result<(), Stop> {
        if let Some(known) = GROUPS.into_iter().find(|known| *known == name) {
            if fold && negated {
                return Err(Stop::undecided(
                    Reason::UnicodeTables,
                    "\\P with (?i) is not evaluated: use explicit ranges",
                ));
            }
            self.groups.push((known, negated));
            return Ok(());
        }
        let script = name.len() > 3 && name.starts_with(|c: char| c.is_ascii_uppercase());
        if script && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_') {
            let message =
                format!("\\p{{{name}}} may be a script that Google's engine knows: use explicit ranges");
            return Err(Stop::undecided(Reason::UnicodeTables, message));
        }
        Err(Stop::error(format!("the pattern is invalid: there is no Unicode group {name}")))
    }

    pub(super) fn has_tables(&self) -> bool {
        !self.groups.is_empty()
    }

    /// Instructions in UTF-8, roughly.
    pub(super) fn size(&self) -> u64 {
        let wide = self.negated || self.ranges.iter().any(|&(_, high)| high > 0x7F);
        self.groups.len() as u64 * 2000 + self.ranges.len() as u64 * if wide { 12 } else { 1 } + 1
    }

    /// In the `regex` crate's syntax.
    pub(super) fn translate(&self) -> String {
        let mut inner = String::new();
        for &(low, high) in &self.ranges {
            // Surrogates are no characters.
            let low = if (0xD800..0xE000).contains(&low) { 0xE000 } else { low };
            let high = if (0xD800..0xE000).contains(&high) { 0xD7FF } else { high };
            if low <= high {
                inner.push_str(&format!("\\x{{{low:X}}}-\\x{{{high:X}}}"));
            }
        }
        for (name, negated) in &self.groups {
            inner.push_str(&format!("\\{}{{{name}}}", if *negated { 'P' } else { 'p' }));
        }
        match (inner.is_empty(), self.negated) {
            (false, false) => format!("[{inner}]"),
            (false, true) => format!("[^{inner}]"),
            (true, false) => "\\P{Any}".to_owned(),
            (true, true) => "(?s:.)".to_owned(),
        }
    }
}
