//! The syntax tree as text, with all parentheses, so that it parses to the same tree.

use super::ast::{Expr, ExprKind};
use super::types::TypeName;
use super::value::Value;

/// `expr` as text.
pub(in crate::policy) fn print(expr: &Expr) -> String {
    let list = |items: &[Expr]| items.iter().map(print).collect::<Vec<_>>().join(", ");
    match &expr.kind {
        ExprKind::Literal(value) => literal(value),
        ExprKind::Ident { name, absolute } => format!("{}{name}", if *absolute { "." } else { "" }),
        ExprKind::Select { operand, field } => format!("{}.{}", operand_text(operand), member(field)),
        ExprKind::Has { operand, field } => format!("has({}.{})", operand_text(operand), member(field)),
        ExprKind::Index { operand, index } => format!("{}[{}]", operand_text(operand), print(index)),
        ExprKind::Call { function, target, arguments } => {
            let target =
                target.as_ref().map(|target| format!("{}.", operand_text(target))).unwrap_or_default();
            format!("{target}{function}({})", list(arguments))
        }
        ExprKind::Not(operand) => format!("!{}", operand_text(operand)),
        ExprKind::Negate(operand) => format!("-({})", print(operand)),
        ExprKind::Binary { op, left, right } => {
            format!("{} {} {}", operand_text(left), op.sign(), operand_text(right))
        }
        ExprKind::And(operands) => operands.iter().map(operand_text).collect::<Vec<_>>().join(" && "),
        ExprKind::Or(operands) => operands.iter().map(operand_text).collect::<Vec<_>>().join(" || "),
        ExprKind::Conditional { condition, then, otherwise } => {
            let otherwise = match otherwise.kind {
                // Parentheses would count as nesting.
                ExprKind::Conditional { .. } => print(otherwise),
                _ => operand_text(otherwise),
            };
            format!("{} ? {} : {otherwise}", operand_text(condition), operand_text(then))
        }
        ExprKind::List(items) => format!("[{}]", list(items)),
        ExprKind::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| format!("{}: {}", print(key), print(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        ExprKind::Comprehension { name, range, variable, filter, body } => {
            let filter = filter.as_ref().map(|filter| format!("{}, ", print(filter))).unwrap_or_default();
            format!("{}.{}({variable}, {filter}{})", operand_text(range), name.name(), print(body))
        }
    }
}

/// In parentheses unless it is one word.
fn operand_text(expr: &Expr) -> String {
    let text = print(expr);
    match &expr.kind {
        ExprKind::Literal(Value::Int(_) | Value::Double(_) | Value::Uint(_)) => format!("({text})"),
        ExprKind::Literal(_)
        | ExprKind::Ident { .. }
        | ExprKind::Select { .. }
        | ExprKind::Has { .. }
        | ExprKind::Index { .. }
        | ExprKind::Call { .. }
        | ExprKind::List(_)
        | ExprKind::Map(_)
        | ExprKind::Comprehension { .. } => text,
        _ => format!("({text})"),
    }
}

fn member(field: &str) -> String {
    let plain = field.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !matches!(field, "in" | "true" | "false" | "null");
    if plain { field.to_owned() } else { format!("`{field}`") }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => format!("{value}u"),
        Value::Double(value) if value.is_infinite() => {
            format!("{}1e999", if *value < 0.0 { "-" } else { "" })
        }
        Value::Double(value) => format!("{value:?}"),
        Value::Text(text) => quoted(text),
        Value::Bytes(bytes) => {
            let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            format!("b'{escaped}'")
        }
        Value::Type(TypeName::Timestamp) => "google.protobuf.Timestamp".to_owned(),
        Value::Type(name) => name.name().to_owned(),
        // Never literals.
        Value::List(_) | Value::Map(_) | Value::Timestamp(_) | Value::Duration(_) => String::new(),
    }
}

/// A text literal.
pub(in crate::policy) fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for character in text.chars() {
        match character {
            '\\' => quoted.push_str("\\\\"),
            '\'' => quoted.push_str("\\'"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other if other.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(other))),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}
