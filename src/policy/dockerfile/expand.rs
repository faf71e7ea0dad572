//! Quotes, escapes and variables of a Dockerfile's words, as the builders process them.
//!
//! A port of BuildKit's `frontend/dockerfile/shell` (v0.32.2); buildah 1.28 differs where [`Builder`] is asked.

use super::pattern::{self, Pattern};
use super::{Builder, Problem, problem, unknown};

/// Nested `${A:-${B:-...}}`, and the longest value: a line of 64 KiB can ask for much more.
const MAX_DEPTH: usize = 64;
const MAX_VALUE: usize = 1 << 20;

/// What is known of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// It is not set.
    Unset,
    /// It is set to this.
    Known(String),
    /// It is set by the base image or by the machine that builds.
    Unknown,
}

/// A processed word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// Its text; a variable that is not known stands in it as `$NAME`.
    pub(super) text: String,
    /// The first variable in it that is not known.
    pub(super) unknown: Option<String>,
}

/// How words are processed.
#[derive(Clone, Copy)]
pub(super) struct Lex {
    pub(super) builder: Builder,
    /// `\`, or the character of `# escape=`.
    pub(super) escape: char,
    /// Whether quotes stay.
    pub(super) raw_quotes: bool,
    /// Whether escapes stay.
    pub(super) raw_escapes: bool,
    /// Whether quotes are characters like others.
    pub(super) skip_quotes: bool,
    /// Whether variables that are not set stay.
    pub(super) skip_unset: bool,
}

impl Lex {
    pub(super) fn new(builder: Builder, escape: char) -> Self {
        // buildah's words know no other escape, whatever `# escape=` says.
        let escape = if builder.is_buildah() { '\\' } else { escape };
        Self { builder, escape, raw_quotes: false, raw_escapes: false, skip_quotes: false, skip_unset: false }
    }

    /// One word: blanks stay.
    pub(super) fn word(&self, word: &str, value: &dyn Fn(&str) -> Value) -> Result<Expanded, Problem> {
        let mut scan = Scan::new(*self, word, value);
        let (text, _) = scan.until(None, self.raw_escapes)?;
        Ok(Expanded { text, unknown: scan.unknown })
    }

    /// Several words, split at blanks after variables were put in.
    pub(super) fn words(&self, word: &str, value: &dyn Fn(&str) -> Value) -> Result<Vec<Expanded>, Problem> {
        let mut scan = Scan::new(*self, word, value);
        let (_, words) = scan.until(None, self.raw_escapes)?;
        Ok(words.into_iter().map(|text| Expanded { text, unknown: scan.unknown.clone() }).collect())
    }
}

struct Scan<'a> {
    lex: Lex,
    characters: Vec<char>,
    at: usize,
    value: &'a dyn Fn(&str) -> Value,
    raw_escapes: bool,
    /// The word that is collected. BuildKit has one for all levels: a nested `${...}` clears it.
    word: String,
    unknown: Option<String>,
    depth: usize,
}

/// Words that are split at blanks.
#[derive(Default)]
struct Words {
    found: Vec<String>,
    is_inside: bool,
}

impl Words {
    fn raw(&mut self, word: &mut String, text: &str) {
        word.push_str(text);
        self.is_inside = true;
    }

    fn add(&mut self, word: &mut String, c: char) {
        if !c.is_whitespace() {
            word.push(c);
            self.is_inside = true;
        } else if self.is_inside && !word.is_empty() {
            self.found.push(std::mem::take(word));
            self.is_inside = false;
        }
    }

    fn finish(mut self, word: &mut String) -> Vec<String> {
        if !word.is_empty() {
            self.found.push(std::mem::take(word));
        }
        self.found
    }
}

impl<'a> Scan<'a> {
    fn new(lex: Lex, word: &str, value: &'a dyn Fn(&str) -> Value) -> Self {
        // Go's scanner skips a byte-order mark.
        let word = word.strip_prefix('\u{feff}').unwrap_or(word);
        Self {
            lex,
            characters: word.chars().collect(),
            at: 0,
            value,
            raw_escapes: lex.raw_escapes,
            word: String::new(),
            unknown: None,
            depth: 0,
        }
    }

    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    /// Up to `stop`, or to the end: the text, and its words.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), Problem> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return unknown("substitutions are nested more than 64 deep");
        }
        let outer_raw = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let outer_word = std::mem::take(&mut self.word);
        let (mut text, mut words) = (String::new(), Words::default());
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.at += 1;
                let found = words.finish(&mut self.word);
                self.leave(outer_raw, outer_word);
                return Ok((text, found));
            }
            match c {
                '$' => {
                    let put_in = self.dollar()?;
                    put_in.chars().for_each(|c| words.add(&mut self.word, c));
                    text.push_str(&put_in);
                }
                '<' if !self.lex.builder.is_buildah() => {
                    let put_in = self.here_document();
                    words.raw(&mut self.word, &put_in);
                    text.push_str(&put_in);
                }
                '\'' | '"' if !self.lex.skip_quotes => {
                    let put_in = if c == '"' { self.double_quotes()? } else { self.single_quotes()? };
                    words.raw(&mut self.word, &put_in);
                    text.push_str(&put_in);
                }
                _ => {
                    self.at += 1;
                    let mut c = c;
                    if c == self.lex.escape {
                        if self.raw_escapes {
                            words.raw(&mut self.word, c.encode_utf8(&mut [0; 4]));
                            text.push(c);
                        }
                        let Some(escaped) = self.next() else { break };
                        c = escaped;
                        words.raw(&mut self.word, c.encode_utf8(&mut [0; 4]));
                    } else {
                        words.add(&mut self.word, c);
                    }
                    text.push(c);
                }
            }
            if text.len() > MAX_VALUE {
                return unknown("a value is longer than 1 MiB");
            }
        }
        if let Some(stop) = stop {
            return problem(format!("a substitution has no {stop}"));
        }
        let found = words.finish(&mut self.word);
        self.leave(outer_raw, outer_word);
        Ok((text, found))
    }

    fn leave(&mut self, raw_escapes: bool, word: String) {
        self.raw_escapes = raw_escapes;
        self.depth -= 1;
        if self.lex.builder.is_buildah() {
            self.word = word;
        }
    }

    fn single_quotes(&mut self) -> Result<String, Problem> {
        let mut text = String::new();
        let quote = self.next().filter(|_| self.lex.raw_quotes);
        text.extend(quote);
        loop {
            match self.next() {
                None => return problem("a single quote is not closed"),
                Some('\'') => break,
                Some(c) => text.push(c),
            }
        }
        text.extend(quote);
        Ok(text)
    }

    fn double_quotes(&mut self) -> Result<String, Problem> {
        let mut text = String::new();
        let quote = self.next().filter(|_| self.lex.raw_quotes);
        text.extend(quote);
        loop {
            match self.peek() {
                None => return problem("a double quote is not closed"),
                Some('"') => break,
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) => {
                    self.at += 1;
                    if c != self.lex.escape {
                        text.push(c);
                    } else {
                        if self.raw_escapes {
                            text.push(c);
                        }
                        match self.peek() {
                            None => {}
                            Some(escaped)
                                if escaped == '"' || escaped == '$' || escaped == self.lex.escape =>
                            {
                                self.at += 1;
                                text.push(escaped);
                            }
                            Some(_) => text.push(c),
                        }
                    }
                }
            }
            if text.len() > MAX_VALUE {
                return unknown("a value is longer than 1 MiB");
            }
        }
        self.at += 1;
        text.extend(quote);
        Ok(text)
    }

    /// `<<` and the blanks behind it belong to the word of a here-document.
    fn here_document(&mut self) -> String {
        let mut text = String::from('<');
        self.at += 1;
        if self.peek() == Some('<') {
            self.at += 1;
            text.push('<');
            while let Some(c) = self.peek().filter(|c| ['\t', '\r', ' '].contains(c)) {
                self.at += 1;
                text.push(c);
            }
        }
        text
    }

    fn dollar(&mut self) -> Result<String, Problem> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name()?;
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(self.plain(&name, format!("${name}")));
        }
        self.at += 1;
        if self.lex.builder.is_buildah() { self.buildah_braces() } else { self.braces() }
    }

    /// The value of `name`, or `unset` where that is to stay.
    fn plain(&mut self, name: &str, unset: String) -> String {
        match (self.value)(name) {
            Value::Known(value) => value,
            Value::Unset if self.lex.skip_unset => unset,
            Value::Unset => String::new(),
            Value::Unknown => self.not_known(name),
        }
    }

    fn not_known(&mut self, name: &str) -> String {
        self.unknown.get_or_insert_with(|| name.to_owned());
        format!("${name}")
    }

    fn braces(&mut self) -> Result<String, Problem> {
        if self.peek().is_none_or(|c| ['{', '}', ':'].contains(&c)) {
            return problem("a substitution has no name");
        }
        let name = self.name()?;
        let (mut operator, mut null_is_unset) = (self.next(), false);
        if operator == Some('}') {
            return Ok(self.plain(&name, format!("${{{name}}}")));
        }
        if operator == Some(':') {
            null_is_unset = true;
            operator = self.next();
        }
        let Some(operator) = operator else {
            return problem(format!("the substitution of {name} has no }}"));
        };
        match operator {
            '/' if !null_is_unset => return self.replaced(&name),
            '+' | '-' | '?' => {}
            '#' | '%' if !null_is_unset => {}
            _ => return problem(format!("the substitution of {name} has an unknown modifier {operator}")),
        }
        let is_pattern = ['#', '%'].contains(&operator);
        let (word, _) = self.until(Some('}'), is_pattern)?;
        let value = match (self.value)(&name) {
            Value::Unknown => return Ok(self.not_known(&name)),
            Value::Unset if self.lex.skip_unset => return Ok(format!("${{{name}{operator}{word}}}")),
            Value::Unset => None,
            Value::Known(value) => Some(value),
        };
        let is_there = value.as_ref().is_some_and(|value| !(null_is_unset && value.is_empty()));
        let value = value.unwrap_or_default();
        Ok(match operator {
            '-' if is_there => value,
            '-' => word,
            '+' if is_there => word,
            '+' => String::new(),
            '?' if is_there => value,
            '?' => return problem(format!("{name} must be set: {word}")),
            operator => {
                let (is_longest, pattern) = match word.strip_prefix(operator) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                let pattern = Pattern::parse(pattern)?;
                if operator == '#' {
                    pattern.without_prefix(&value, is_longest)
                } else {
                    pattern.without_suffix(&value, is_longest)
                }
            }
        })
    }

    /// `${NAME/PATTERN/TEXT}`, or `//` for every match.
    fn replaced(&mut self, name: &str) -> Result<String, Problem> {
        let is_every = self.peek() == Some('/');
        self.at += usize::from(is_every);
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true)?;
        match (self.value)(name) {
            Value::Unknown => Ok(self.not_known(name)),
            Value::Unset if self.lex.skip_unset => Ok(format!("${{{name}/{pattern}/{replacement}}}")),
            Value::Unset => pattern::replace("", &pattern, &replacement, is_every),
            Value::Known(value) => pattern::replace(&value, &pattern, &replacement, is_every),
        }
    }

    /// buildah knows `${NAME}`, `${NAME:-WORD}` and `${NAME:+WORD}`.
    fn buildah_braces(&mut self) -> Result<String, Problem> {
        let name = self.name()?;
        match self.next() {
            Some('}') => return Ok(self.plain(&name, String::new())),
            Some(':') => {}
            _ => return problem(format!("buildah knows no such substitution of {name}")),
        }
        let modifier = self.next();
        let (word, _) = self.until(Some('}'), false)?;
        let value = match (self.value)(&name) {
            Value::Unknown => return Ok(self.not_known(&name)),
            Value::Unset => String::new(),
            Value::Known(value) => value,
        };
        match modifier {
            Some('+') => Ok(if value.is_empty() { value } else { word }),
            Some('-') => Ok(if value.is_empty() { word } else { value }),
            _ => problem(format!("buildah knows no such substitution of {name}")),
        }
    }

    fn name(&mut self) -> Result<String, Problem> {
        let is_buildah = self.lex.builder.is_buildah();
        let mut name = String::new();
        while let Some(c) = self.peek() {
            if name.is_empty() && c.is_ascii_digit() {
                while let Some(digit) = self.peek().filter(char::is_ascii_digit) {
                    self.at += 1;
                    name.push(digit);
                    if is_buildah {
                        break;
                    }
                }
                return Ok(name);
            }
            if name.is_empty() && !is_buildah && ['@', '*', '#', '?', '-', '$', '!'].contains(&c) {
                self.at += 1;
                return Ok(c.to_string());
            }
            if !c.is_ascii() && c.is_alphanumeric() {
                // Go and Rust do not agree on every letter.
                return unknown("a variable's name has a letter or digit that is not ASCII");
            }
            if !c.is_ascii_alphanumeric() && c != '_' {
                break;
            }
            self.at += 1;
            name.push(c);
        }
        Ok(name)
    }
}
