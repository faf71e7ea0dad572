//! The provider's attribute mapping: claims → `google.subject`, `google.groups`, `attribute.*`.
//!
//! The bounds are those that Google documents for workload identity pool providers.

use std::sync::Arc;

use super::cel::{self, Activation, EvalError, Expr, Key, MappedKind, Reason, Rejected, Stop, Value};
use super::rejected::ConditionError;

const MAX_EXPRESSION_CHARACTERS: usize = 2048;
const MAX_SUBJECT_BYTES: usize = 127;
const MAX_CUSTOM: usize = 50;
const MAX_NAME_BYTES: usize = 100;
const MAX_TOTAL_BYTES: usize = 8192;

/// A mapping that Google takes.
#[derive(Debug)]
pub struct AttributeMapping {
    entries: Vec<(Target, Expr)>,
}

/// What is mapped to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Subject,
    Groups,
    Custom(String),
}

/// Why an attribute mapping cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// Not `KEY=EXPRESSION`.
    #[error(
        "`{0}` must be KEY=EXPRESSION, where KEY is google.subject, google.groups or attribute.NAME (a-z, 0-9, _)"
    )]
    Key(String),
    /// A key twice.
    #[error("{0} is mapped twice")]
    Twice(String),
    /// Google requires it.
    #[error("google.subject is missing: Google requires it")]
    NoSubject,
    /// Too many.
    #[error("there are more than {MAX_CUSTOM} custom attributes")]
    TooMany,
    /// Longer than Google takes.
    #[error("the expression of {0} is longer than {MAX_EXPRESSION_CHARACTERS} characters")]
    TooLong(String),
    /// The expression comes to no string, or for groups no list of strings.
    #[error("the expression of {0} must give {1}")]
    Kind(String, &'static str),
    /// It refers to what it defines.
    #[error("the expression of {0} can use `assertion` only")]
    Circular(String),
    /// The expression is wrong.
    #[error("{0}: {1}")]
    Expression(String, ConditionError),
}

impl Target {
    fn parse(key: &str) -> Option<Self> {
        match key {
            "google.subject" => Some(Self::Subject),
            "google.groups" => Some(Self::Groups),
            _ => {
                let name = key.strip_prefix("attribute.")?;
                let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
                let holds = !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(allowed);
                holds.then(|| Self::Custom(name.to_owned()))
            }
        }
    }
}

impl AttributeMapping {
    /// Parses `KEY=EXPRESSION` texts; one text may hold several, separated by commas as gcloud has them.
    ///
    /// # Errors
    /// [`MappingError`].
    pub fn parse(texts: &[String]) -> Result<Self, MappingError> {
        let mut entries: Vec<(Target, Expr)> = Vec::new();
        for entry in texts.iter().flat_map(|text| split_entries(text)) {
            let entry = entry.trim().trim_start_matches('\u{feff}');
            let wrong = || MappingError::Key(entry.to_owned());
            let (key, expression) = entry.split_once('=').ok_or_else(wrong)?;
            let key = key.trim();
            let target = Target::parse(key).ok_or_else(wrong)?;
            if entries.iter().any(|(known, _)| *known == target) {
                return Err(MappingError::Twice(key.to_owned()));
            }
            let expr = expression_of(key, expression.trim(), &target)?;
            entries.push((target, expr));
        }
        if !entries.iter().any(|(target, _)| *target == Target::Subject) {
            return Err(MappingError::NoSubject);
        }
        if entries.iter().filter(|(target, _)| matches!(target, Target::Custom(_))).count() > MAX_CUSTOM {
            return Err(MappingError::TooMany);
        }
        Ok(Self { entries })
    }

    /// `google` and `attribute`, for the claims in `assertion`.
    pub(super) fn apply(&self, assertion: &Value) -> Result<(Value, Value), Stop> {
        let (mut google, mut attribute) = (Vec::new(), Vec::new());
        let activation = Activation { assertion: assertion.clone(), mapped: None };
        let mut total = 0;
        for (target, expr) in &self.entries {
            let value = cel::evaluate(expr, &activation).map_err(|stop| about(target, stop))?;
            total += bytes(&value);
            match (target, &value) {
                (Target::Subject, Value::Text(subject)) if subject.len() > MAX_SUBJECT_BYTES => {
                    return Err(about(target, error(format!("it is longer than {MAX_SUBJECT_BYTES} bytes"))));
                }
                (Target::Subject, Value::Text(subject)) if subject.is_empty() => {
                    return Err(about(target, error("it is empty".to_owned())));
                }
                (Target::Subject | Target::Custom(_), Value::Text(_)) => {}
                (Target::Groups, Value::List(items))
                    if items.iter().all(|item| matches!(item, Value::Text(_))) => {}
                (Target::Custom(_), _) => {
                    let message =
                        "Google documents custom attributes as strings, and not what becomes of other values";
                    return Err(about(
                        target,
                        Stop::Undecided(cel::Undecided::new(Reason::AttributeMapping, message)),
                    ));
                }
                _ => return Err(about(target, error("it has the wrong type".to_owned()))),
            }
            let (map, name) = match target {
                Target::Subject => (&mut google, "subject"),
                Target::Groups => (&mut google, "groups"),
                Target::Custom(name) => (&mut attribute, name.as_str()),
            };
            map.push((Key::Text(name.into()), value));
        }
        if total > MAX_TOTAL_BYTES {
            return Err(error(format!(
                "the mapped attributes are larger than {MAX_TOTAL_BYTES} bytes together"
            )));
        }
        Ok((Value::Map(Arc::new(google)), Value::Map(Arc::new(attribute))))
    }
}

fn error(message: String) -> Stop {
    Stop::Fatal(EvalError { message })
}

/// `stop`, which ends the exchange of the token, with what it is about.
fn about(target: &Target, stop: Stop) -> Stop {
    let name = match target {
        Target::Subject => "google.subject".to_owned(),
        Target::Groups => "google.groups".to_owned(),
        Target::Custom(name) => format!("attribute.{name}"),
    };
    match stop {
        Stop::Error(EvalError { message }) | Stop::Fatal(EvalError { message }) => {
            error(format!("{name} cannot be mapped: {message}"))
        }
        Stop::Undecided(why) => {
            Stop::Undecided(cel::Undecided::new(why.reason, format!("{name}: {}", why.message)))
        }
    }
}

fn bytes(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.iter().map(bytes).sum(),
        _ => 0,
    }
}

fn expression_of(key: &str, text: &str, target: &Target) -> Result<Expr, MappingError> {
    if text.chars().count() > MAX_EXPRESSION_CHARACTERS {
        return Err(MappingError::TooLong(key.to_owned()));
    }
    let wrong =
        |rejected: Rejected| MappingError::Expression(key.to_owned(), ConditionError::at(text, rejected));
    let expr = cel::parse(text).map_err(wrong)?;
    if mentions_attributes(&expr) {
        return Err(MappingError::Circular(key.to_owned()));
    }
    let kind = cel::mapped_kind(&expr).map_err(wrong)?;
    match (target, kind) {
        (_, MappedKind::Any) | (Target::Groups, MappedKind::Texts) => Ok(expr),
        (Target::Groups, _) => Err(MappingError::Kind(key.to_owned(), "a list of strings")),
        (_, MappedKind::Text) => Ok(expr),
        _ => Err(MappingError::Kind(key.to_owned(), "a string")),
    }
}

fn mentions_attributes(expr: &Expr) -> bool {
    let named =
        matches!(&expr.kind, cel::ExprKind::Ident { name, .. } if name == "google" || name == "attribute");
    named || expr.children().into_iter().any(mentions_attributes)
}

/// Splits at the commas that a key and `=` follow.
fn split_entries(text: &str) -> Vec<&str> {
    let mut entries = Vec::new();
    let mut start = 0;
    for (at, _) in text.match_indices([',', '\n']) {
        let rest = text.get(at + 1..).unwrap_or_default();
        let key =
            rest.split_once('=').filter(|(_, after)| !after.starts_with('=')).map(|(key, _)| key.trim());
        if key.is_some_and(|key| Target::parse(key).is_some()) {
            entries.push(text.get(start..at).unwrap_or_default());
            start = at + 1;
        }
    }
    entries.push(text.get(start..).unwrap_or_default());
    entries.retain(|entry| !entry.trim().is_empty());
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::{Condition, Verdict};

    fn mapping(text: &str) -> Result<AttributeMapping, MappingError> {
        AttributeMapping::parse(&[text.to_owned()])
    }

    fn verdict(condition: &str, map: &str) -> Verdict {
        let claims = json!({"sub": "a/sc/b", "aud": ["x", "y"], "email": "A@B", "n": 5});
        let condition = Condition::parse(condition).unwrap();
        condition.with_mapping(mapping(map).unwrap()).decide(&claims).verdict
    }

    #[test]
    fn mapped_attributes_are_what_their_expressions_give() {
        let map = "google.subject=assertion.sub.split('/sc/')[1],google.groups=assertion.aud,\
            attribute.who=assertion.email.lowerAscii(),attribute.prefix=assertion.sub.extract('{p}/sc')";
        assert_eq!(verdict("google.subject == 'b' && 'x' in google.groups", map), Verdict::True);
        assert_eq!(verdict("attribute.who == 'a@b' && attribute.prefix == 'a'", map), Verdict::True);
        assert_eq!(verdict("attribute.other == ''", map), Verdict::NotEvaluable);
        assert_eq!(verdict("has(attribute.other)", map), Verdict::False);
    }

    #[test]
    fn a_token_that_cannot_be_mapped_is_rejected() {
        assert_eq!(verdict("true", "google.subject=assertion.nope"), Verdict::NotEvaluable);
        assert_eq!(verdict("true", "google.subject=assertion.n"), Verdict::NotEvaluable);
        assert_eq!(verdict("true", "google.subject='x',attribute.n=assertion.n"), Verdict::Undecided);
        assert_eq!(verdict("true", "google.subject='x',google.groups=assertion.sub"), Verdict::NotEvaluable);
    }

    #[test]
    fn what_google_would_not_take_is_refused() {
        let long = format!("google.subject='{}'", "a".repeat(MAX_EXPRESSION_CHARACTERS));
        for wrong in [
            "subject=assertion.sub",
            "google.subject",
            "attribute.A=assertion.a,google.subject='x'",
            "attribute.a=assertion.a",
            "google.subject=1",
            "google.subject=asserton.sub",
            "google.subject=google.groups",
            "google.subject='x',google.subject='y'",
            "google.subject='x',google.groups='y'",
            &long,
        ] {
            assert!(mapping(wrong).is_err(), "{wrong}");
        }
    }
}
