//! Wildcards of `${NAME#PATTERN}`, `${NAME%PATTERN}` and `${NAME/PATTERN/TEXT}`: `*` and `?`.
//!
//! BuildKit makes a regular expression of a pattern. Stars are all lazy or all greedy there, so what it finds is the
//! shortest or the longest match.

use super::{Problem, problem, unknown};

/// A longer value is not searched: time grows with its square.
const MAX_SEARCHED: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Is(char),
}

/// A pattern of wildcards.
pub(super) struct Pattern(Vec<Token>);

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let (mut tokens, mut characters) = (Vec::new(), text.chars().peekable());
        while let Some(c) = characters.next() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match characters.next() {
                    Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => Token::Is(escaped),
                    _ => return problem("a pattern has an escape that builders refuse"),
                },
                c => Token::Is(c),
            });
        }
        Ok(Self(tokens))
    }

    pub(super) fn without_prefix(&self, value: &str, is_longest: bool) -> String {
        let characters: Vec<char> = value.chars().collect();
        let end = self.end_of_match(&characters, is_longest).unwrap_or(0);
        characters.into_iter().skip(end).collect()
    }

    pub(super) fn without_suffix(&self, value: &str, is_longest: bool) -> String {
        let reversed = Self(self.0.iter().rev().copied().collect());
        let value: String = value.chars().rev().collect();
        reversed.without_prefix(&value, is_longest).chars().rev().collect()
    }

    /// Where the shortest or the longest match ends that starts at the first character.
    fn end_of_match(&self, characters: &[char], is_longest: bool) -> Option<usize> {
        let mut found = None;
        // Which tokens may come next, after as many characters as were read.
        let mut next = vec![false; self.0.len() + 1];
        self.reach(&mut next, 0);
        for end in 0..=characters.len() {
            if next.last().copied().unwrap_or_default() {
                found = Some(end);
                if !is_longest {
                    return found;
                }
            }
            let Some(&c) = characters.get(end) else { break };
            let mut after = vec![false; next.len()];
            for (index, token) in
                self.0.iter().enumerate().filter(|&(index, _)| next.get(index) == Some(&true))
            {
                match token {
                    Token::Any if c != '\n' => self.reach(&mut after, index),
                    Token::One if c != '\n' => self.reach(&mut after, index + 1),
                    Token::Is(wanted) if *wanted == c => self.reach(&mut after, index + 1),
                    _ => {}
                }
            }
            next = after;
        }
        found
    }

    /// Marks `index`, and what stars let follow without a character.
    fn reach(&self, next: &mut [bool], mut index: usize) {
        while let Some(mark) = next.get_mut(index) {
            *mark = true;
            if self.0.get(index) != Some(&Token::Any) {
                break;
            }
            index += 1;
        }
    }
}

/// `value` with the first or every longest match of `pattern` replaced.
pub(super) fn replace(
    value: &str,
    pattern: &str,
    replacement: &str,
    is_every: bool,
) -> Result<String, Problem> {
    let pattern = Pattern::parse(pattern)?;
    let may_be_empty = pattern.0.iter().all(|&token| token == Token::Any);
    if is_every && (replacement.contains('$') || may_be_empty) {
        return unknown("a replacement of every match has a $, or a pattern that matches nothing");
    }
    let characters: Vec<char> = value.chars().collect();
    if characters.len() > MAX_SEARCHED {
        return unknown("a pattern is searched in a value of more than 4,096 characters");
    }
    let (mut text, mut at, mut is_done) = (String::new(), 0, false);
    while let Some(rest) = characters.get(at..) {
        let end = if is_done { None } else { pattern.end_of_match(rest, true) };
        match end {
            Some(length) => {
                text.push_str(replacement);
                is_done = !is_every;
                at += length;
                if length > 0 {
                    continue;
                }
            }
            None if rest.is_empty() => break,
            None => {}
        }
        if rest.is_empty() {
            break;
        }
        text.extend(rest.first());
        at += 1;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trimmed(value: &str, pattern: &str, is_prefix: bool, is_longest: bool) -> String {
        let pattern = Pattern::parse(pattern).ok().unwrap();
        if is_prefix {
            pattern.without_prefix(value, is_longest)
        } else {
            pattern.without_suffix(value, is_longest)
        }
    }

    #[test]
    fn prefixes_and_suffixes_are_the_shortest_or_the_longest() {
        for (pattern, is_prefix, is_longest, left) in [
            ("f*o", true, false, "obarfoo"),
            ("f*o", true, true, ""),
            ("f*o", false, false, "foobar"),
            ("f*o", false, true, ""),
            ("*o*b", true, false, "arfoo"),
            ("?", true, false, "oobarfoo"),
            ("x", true, true, "foobarfoo"),
            ("", true, true, "foobarfoo"),
            ("*", false, true, ""),
        ] {
            assert_eq!(trimmed("foobarfoo", pattern, is_prefix, is_longest), left, "{pattern}");
        }
        assert_eq!(trimmed("a*b", "a\\*", true, false), "b");
        assert!(Pattern::parse("a\\n").is_err());
    }

    #[test]
    fn matches_are_replaced_once_or_everywhere() {
        let replaced =
            |pattern, replacement, is_every| replace("foobarfoo", pattern, replacement, is_every).ok();
        assert_eq!(replaced("foo", "x", false).as_deref(), Some("xbarfoo"));
        assert_eq!(replaced("foo", "x", true).as_deref(), Some("xbarx"));
        assert_eq!(replaced("o*b", "-", false).as_deref(), Some("f-arfoo"));
        assert_eq!(replaced("", "x", false).as_deref(), Some("xfoobarfoo"));
        assert_eq!(replaced("none", "x", true).as_deref(), Some("foobarfoo"));
        assert_eq!(replaced("*", "x", true), None);
    }
}
