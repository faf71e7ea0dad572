//! Calls, macros and the names of protobuf types, as nodes of the tree.

use super::ast::{Expr, ExprKind, Macro};
use super::types::TypeName;
use super::{Problem, Reason, Rejected, Undecided};

/// The name that the engine's macros use for themselves.
const ACCUMULATOR: &str = "__result__";

/// A call at `at`, or the macro that it is.
pub(super) fn call(
    name: &str,
    target: Option<Expr>,
    arguments: Vec<Expr>,
    at: usize,
) -> Result<ExprKind, Problem> {
    Ok(match (name, target) {
        ("has", None) if arguments.len() == 1 => {
            let argument = arguments.into_iter().next();
            match argument.map(|argument| (argument.at, argument.kind)) {
                Some((_, ExprKind::Select { operand, field })) => ExprKind::Has { operand, field },
                other => {
                    let at = other.map_or(at, |(at, _)| at);
                    let hint = Some(
                        "write has(assertion.claim); for a name with other signs, has(assertion.`a-b`)"
                            .to_owned(),
                    );
                    let problem = Problem::new(at, "has() takes a member such as assertion.claim");
                    return Err(problem.hint(hint));
                }
            }
        }
        (name, Some(target)) => match macro_of(name, arguments.len()) {
            Some(name) => comprehension(name, target, arguments)?,
            None => ExprKind::Call { function: name.to_owned(), target: Some(Box::new(target)), arguments },
        },
        (name, None) => ExprKind::Call { function: name.to_owned(), target: None, arguments },
    })
}

fn macro_of(name: &str, arguments: usize) -> Option<Macro> {
    match (name, arguments) {
        ("all", 2) => Some(Macro::All),
        ("exists", 2) => Some(Macro::Exists),
        ("exists_one", 2) => Some(Macro::ExistsOne),
        ("map", 2 | 3) => Some(Macro::Map),
        ("filter", 2) => Some(Macro::Filter),
        _ => None,
    }
}

fn comprehension(name: Macro, range: Expr, arguments: Vec<Expr>) -> Result<ExprKind, Problem> {
    let mut arguments = arguments.into_iter();
    let first = arguments.next();
    let at = first.as_ref().map_or(range.at, |first| first.at);
    let Some(ExprKind::Ident { name: variable, absolute: false }) = first.map(|first| first.kind) else {
        return Err(Problem::new(
            at,
            format!("the first argument of {}() is a variable's name", name.name()),
        ));
    };
    if variable == ACCUMULATOR {
        return Err(Problem::new(at, format!("the variable cannot be named {ACCUMULATOR}")));
    }
    let (second, third) = (arguments.next(), arguments.next());
    let (filter, body) = match (second, third) {
        (Some(filter), Some(body)) => (Some(Box::new(filter)), body),
        (Some(body), None) => (None, body),
        _ => return Err(Problem::new(at, format!("{}() takes a variable and an expression", name.name()))),
    };
    Ok(ExprKind::Comprehension { name, range: Box::new(range), variable, filter, body: Box::new(body) })
}

/// `google.protobuf.Name`: `Some(None)` for a type that is not supported here.
pub(super) fn protobuf_type(operand: &Expr, name: &str) -> Option<Option<TypeName>> {
    let ExprKind::Select { operand, field } = &operand.kind else { return None };
    let ExprKind::Ident { name: root, .. } = &operand.kind else { return None };
    (root == "google" && matches!(field.as_str(), "protobuf" | "type" | "rpc")).then_some(
        match (field.as_str(), name) {
            ("protobuf", "Timestamp") => Some(TypeName::Timestamp),
            ("protobuf", "Duration") => Some(TypeName::Duration),
            _ => None,
        },
    )
}

/// There is no verdict on messages.
pub(super) fn protobuf_message(at: usize) -> Rejected {
    let message =
        "protobuf messages and their types are not evaluated here: compare claims with plain values";
    Rejected::Undecided(at, Undecided::new(Reason::ProtobufMessage, message))
}
