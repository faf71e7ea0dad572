//! An instruction's arguments as words, names with values, and lists.
//!
//! A port of BuildKit's `frontend/dockerfile/parser/line_parsers.go` (v0.32.2).

use serde_json::Value;

use super::blank::{is_blank, split_once_blank};
use super::{Builder, Problem, problem, unknown};

/// Words at blanks that are neither quoted nor escaped; quotes and escapes stay.
pub(super) fn words(text: &str, escape: char) -> Vec<String> {
    let (mut found, mut word, mut quote, mut may_be_empty) = (Vec::new(), String::new(), None, false);
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        match quote {
            None if c.is_whitespace() => {
                if may_be_empty || !word.is_empty() {
                    found.push(std::mem::take(&mut word));
                }
                may_be_empty = false;
                continue;
            }
            None if ['"', '\''].contains(&c) => (quote, may_be_empty) = (Some(c), true),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        if c == escape && quote != Some('\'') {
            // At the end of a line it is skipped.
            let Some(escaped) = characters.next() else { break };
            word.push(c);
            word.push(escaped);
        } else {
            word.push(c);
        }
    }
    if may_be_empty || !word.is_empty() {
        found.push(word);
    }
    found
}

/// `A=b "C"="d e"`, or `A the rest`, of LABEL and ENV.
pub(super) fn pairs(text: &str, escape: char) -> Result<Vec<(String, String)>, Problem> {
    let pairs = pairs_or_none(text, escape)?;
    if pairs.is_empty() {
        return problem("LABEL and ENV take at least one name with a value");
    }
    if pairs.iter().any(|(name, _)| name.is_empty()) {
        return problem("a name is blank");
    }
    Ok(pairs)
}

/// What ONBUILD checks of them before it is triggered.
pub(super) fn pairs_or_none(text: &str, escape: char) -> Result<Vec<(String, String)>, Problem> {
    let words = words(text, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    let no_pair = || Problem::Refused("LABEL and ENV take NAME=VALUE, or one NAME and its VALUE".to_owned());
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    if !first.contains('=') {
        return Ok(vec![split_once_blank(text).map(owned).ok_or_else(no_pair)?]);
    }
    words.iter().map(|word| word.split_once('=').map(owned).ok_or_else(no_pair)).collect()
}

/// Words at blanks, whatever quotes there are.
pub(super) fn at_blanks(text: &str) -> Vec<String> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// `["a", "b"]`; `None` for what is no list and so a line.
pub(super) fn list(text: &str, builder: Builder) -> Result<Option<Vec<String>>, Problem> {
    let text = text.trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let parsed = if builder.is_buildah() {
        // It reads the list, and not whether something follows.
        serde_json::Deserializer::from_str(text).into_iter::<Vec<Value>>().next().and_then(Result::ok)
    } else {
        serde_json::from_str::<Vec<Value>>(text).ok()
    };
    let Some(items) = parsed else {
        // Go takes half of a surrogate pair and puts a replacement character there.
        if text.contains("\\u") {
            return unknown("a list cannot be read: write its characters without \\u");
        }
        return Ok(None);
    };
    let words = items.into_iter().map(|item| match item {
        Value::String(word) => Ok(word),
        _ => problem("a list holds something else than strings"),
    });
    words.collect::<Result<_, _>>().map(Some)
}
