//! The text functions that Google documents for attribute mappings: `extract`, `split`, `join`, `lowerAscii`.
//!
//! `split`, `join` and `lowerAscii` are CEL's strings extension. `extract` is Google's own: its documentation gives
//! a rule and eight examples; templates of another form have no defined result.

use std::sync::Arc;

use super::Reason;
use super::evaluated::{Evaluated, no_overload};
use super::stop::Stop;
use super::value::Value;

/// The part of `text` that `{name}` in the template stands for; empty if the template does not fit.
pub(super) fn extract(text: &str, template: &str) -> Evaluated {
    let parts = template
        .split_once('{')
        .and_then(|(before, rest)| rest.split_once('}').map(|(name, after)| (before, name, after)));
    let named = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let Some((before, _, after)) = parts
        .filter(|(before, name, after)| named(name) && !before.contains('}') && !after.contains(['{', '}']))
    else {
        return Err(Stop::undecided(
            Reason::ExtractTemplate,
            format!("extract({template:?}): only templates with one {{name}} are documented"),
        ));
    };
    let rest = text.find(before).and_then(|at| text.get(at + before.len()..));
    let found = rest.and_then(|rest| {
        if after.is_empty() { Some(rest) } else { rest.split_once(after).map(|(found, _)| found) }
    });
    Ok(Value::text(found.unwrap_or_default()))
}

/// `text.split(separator)`, into `limit` parts at most.
pub(super) fn split(text: &str, separator: &str, limit: i64) -> Evaluated {
    let texts = |parts: Vec<&str>| Ok(Value::List(Arc::new(parts.into_iter().map(Value::text).collect())));
    let Ok(limit) = usize::try_from(limit) else {
        return texts(if separator.is_empty() {
            characters(text, usize::MAX)
        } else {
            text.split(separator).collect()
        });
    };
    match limit {
        0 => texts(Vec::new()),
        1 => texts(vec![text]),
        limit if separator.is_empty() => texts(characters(text, limit)),
        limit => texts(text.splitn(limit, separator).collect()),
    }
}

/// One text per character, and one for no text; the last of `most` has the rest.
fn characters(text: &str, most: usize) -> Vec<&str> {
    if text.is_empty() {
        return vec![""];
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if parts.len() + 1 >= most {
            parts.push(rest);
            break;
        }
        let (character, after) = rest.split_at(first.len_utf8());
        parts.push(character);
        rest = after;
    }
    parts
}

/// `list.join(separator)`.
pub(super) fn join(list: &Value, separator: &str) -> Evaluated {
    let Value::List(items) = list else { return Err(no_overload("join", &[list])) };
    let mut joined = String::new();
    for (index, item) in items.iter().enumerate() {
        let Value::Text(text) = item else { return Err(no_overload("join", &[item])) };
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
    }
    Ok(Value::text(&joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: Evaluated) -> String {
        match value {
            Ok(Value::Text(text)) => text.to_string(),
            other => panic!("{other:?}"),
        }
    }

    /// The examples of Google's attribute reference for IAM Conditions.
    #[test]
    fn extract_does_what_google_documents() {
        let name = "projects/_/buckets/acme-orders-aaa/objects/data_lake/orders/order_date=2019-11-03/aef87g87ae0876";
        for (template, expected) in [
            ("/order_date={date}/", "2019-11-03"),
            ("buckets/{name}/", "acme-orders-aaa"),
            ("/orders/{empty}order_date", ""),
            ("{start}/objects/data_lake", "projects/_/buckets/acme-orders-aaa"),
            ("orders/{end}", "order_date=2019-11-03/aef87g87ae0876"),
            ("{all}", name),
            ("/orders/{none}/order_date=", ""),
            ("/orders/order_date=2019-11-03/{id}/data_lake", ""),
        ] {
            assert_eq!(text(extract(name, template)), expected, "{template}");
        }
    }

    #[test]
    fn a_template_that_is_not_documented_has_no_result() {
        for template in ["", "a", "{}", "{a}{b}", "{a", "a}", "}{a}", "{a b}", "{a}}"] {
            assert!(matches!(extract("a", template), Err(Stop::Undecided(_))), "{template}");
        }
    }
}
