//! Which claims an expression reads.

use super::cel::{self, Expr, ExprKind};

/// The members of `assertion` that an expression reads: the longest chains of names.
pub(super) fn collect_paths<'a>(expr: &'a Expr, shadowed: &mut Vec<&'a str>, paths: &mut Vec<Vec<String>>) {
    if let Some(path) = path_of(expr).filter(|path| !path.is_empty() && !shadowed.contains(&"assertion")) {
        if !paths.contains(&path) {
            paths.push(path);
        }
        return;
    }
    if let ExprKind::Comprehension { range, variable, filter, body, .. } = &expr.kind {
        collect_paths(range, shadowed, paths);
        shadowed.push(variable);
        for inner in filter.iter().chain([body]) {
            collect_paths(inner, shadowed, paths);
        }
        shadowed.pop();
        return;
    }
    expr.children().into_iter().for_each(|child| collect_paths(child, shadowed, paths));
}

/// The names after `assertion`, if `expr` is such a chain.
pub(super) fn path_of(expr: &Expr) -> Option<Vec<String>> {
    let (operand, name) = match &expr.kind {
        ExprKind::Ident { name, .. } if name == "assertion" => return Some(Vec::new()),
        ExprKind::Select { operand, field } | ExprKind::Has { operand, field } => (operand, field.as_str()),
        ExprKind::Index { operand, index } => match &index.kind {
            ExprKind::Literal(cel::Value::Text(name)) => (operand, &**name),
            _ => return None,
        },
        _ => return None,
    };
    let mut path = path_of(operand)?;
    path.push(name.to_owned());
    Some(path)
}

/// `a.b`; names with other signs are in backticks.
pub(super) fn dotted(path: &[String]) -> String {
    let plain = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
    let parts = path.iter().map(|name| if plain(name) { name.clone() } else { format!("`{name}`") });
    parts.collect::<Vec<_>>().join(".")
}
