//! What a condition demands, in plain words.

use serde::Serialize;

use super::cel::{self, BinaryOp, Expr, ExprKind, Macro, Value};
use super::condition::Condition;
use super::paths::{dotted, path_of};

/// One clause, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The clause's line in the condition, from one.
    pub line: usize,
    /// Its column, from one.
    pub column: usize,
    /// As it is written, on one line and without comments.
    pub clause: String,
    /// What it demands.
    pub means: String,
}

/// Claims that are known by another name.
const WORDS: [(&str, &str); 15] = [
    ("secboot", "secure boot"),
    ("dbgstat", "the debug status of the VM image"),
    ("hwmodel", "the kind of machine"),
    ("swname", "the operating system"),
    ("swversion", "the version of the operating system"),
    ("google_service_accounts", "the list of the VM's service accounts"),
    ("submods.container.image_digest", "the digest of the container image"),
    ("submods.container.image_reference", "the name of the container image"),
    ("submods.container.image_signatures", "the list of the container image's signatures"),
    ("submods.container.cmd_override", "the list of arguments from the operator"),
    ("submods.container.env_override", "the set of environment variables from the operator"),
    ("submods.confidential_space.support_attributes", "the list of the VM image's support attributes"),
    ("submods.gce.project_id", "the project of the VM"),
    ("submods.nvidia_gpu.cc_mode", "the confidential mode of the GPU"),
    ("tdx", "the state of Intel TDX"),
];

/// Every clause of `condition`, explained.
pub fn explain(condition: &Condition) -> Vec<Explained> {
    let explained = condition.clauses().map(|(place, clause, expr)| Explained {
        line: place.line,
        column: place.column,
        clause: clause.to_owned(),
        means: sentence(expr),
    });
    explained.collect()
}

/// A sentence that is true if `expr` is.
fn sentence(expr: &Expr) -> String {
    match &expr.kind {
        ExprKind::Literal(Value::Bool(true)) => "nothing: every token meets this".to_owned(),
        ExprKind::Literal(Value::Bool(false)) => "the impossible: no token meets this".to_owned(),
        ExprKind::Has { .. } => format!("{} is in the token", noun(expr)),
        ExprKind::Not(operand) => negated(operand),
        ExprKind::And(operands) => format!("({})", joined(operands, " and ")),
        ExprKind::Or(operands) => format!("either {}", joined(operands, ", or ")),
        ExprKind::Conditional { condition, then, otherwise } => {
            format!("if {}, then {}, else {}", sentence(condition), sentence(then), sentence(otherwise))
        }
        ExprKind::Binary { op, left, right } => comparison(*op, left, right),
        ExprKind::Call { function, target, arguments } => call(expr, function, target.as_deref(), arguments),
        ExprKind::Comprehension { name, range, variable, filter: None, body } => {
            let quantity = match name {
                Macro::All => "every",
                Macro::Exists => "at least one",
                Macro::ExistsOne => "exactly one",
                Macro::Map | Macro::Filter => return is_true(expr),
            };
            format!("for {quantity} element `{variable}` of {}: {}", noun(range), sentence(body))
        }
        _ => is_true(expr),
    }
}

fn is_true(expr: &Expr) -> String {
    match path_of(expr).map(|path| dotted(&path)).as_deref() {
        Some("secboot") => "secure boot is on (`secboot`)".to_owned(),
        _ => format!("{} is true", noun(expr)),
    }
}

fn negated(operand: &Expr) -> String {
    match &operand.kind {
        ExprKind::Has { .. } => format!("{} is not in the token", noun(operand)),
        _ if path_of(operand).is_some() => format!("{} is false", noun(operand)),
        _ => format!("it is not so that {}", sentence(operand)),
    }
}

fn joined(operands: &[Expr], between: &str) -> String {
    operands.iter().map(sentence).collect::<Vec<_>>().join(between)
}

fn comparison(op: BinaryOp, left: &Expr, right: &Expr) -> String {
    if op == BinaryOp::In {
        return match &right.kind {
            ExprKind::List(items) => {
                let items: Vec<String> = items.iter().map(noun).collect();
                format!("{} is one of {}", noun(left), items.join(", "))
            }
            _ => format!("{} contains {}", noun(right), noun(left)),
        };
    }
    let truth = |expr: &Expr| matches!(expr.kind, ExprKind::Literal(Value::Bool(true)));
    if op == BinaryOp::Equal && path_of(left).is_some() && truth(right) {
        return is_true(left);
    }
    let literal = |expr: &Expr| matches!(expr.kind, ExprKind::Literal(_));
    // `'x' == claim` reads the other way round.
    let (left, right, op) =
        if literal(left) && !literal(right) { (right, left, mirrored(op)) } else { (left, right, op) };
    let words = match op {
        BinaryOp::Equal => "is",
        BinaryOp::NotEqual => "is not",
        BinaryOp::Less => "is less than",
        BinaryOp::LessEqual => "is at most",
        BinaryOp::Greater => "is more than",
        BinaryOp::GreaterEqual => "is at least",
        _ => return format!("`{}` {} `{}` is true", cel::print(left), op.sign(), cel::print(right)),
    };
    format!("{} {words} {}", noun(left), noun(right))
}

fn mirrored(op: BinaryOp) -> BinaryOp {
    match op {
        BinaryOp::Less => BinaryOp::Greater,
        BinaryOp::LessEqual => BinaryOp::GreaterEqual,
        BinaryOp::Greater => BinaryOp::Less,
        BinaryOp::GreaterEqual => BinaryOp::LessEqual,
        other => other,
    }
}

fn call(expr: &Expr, function: &str, target: Option<&Expr>, arguments: &[Expr]) -> String {
    let words = match function {
        "startsWith" => "starts with",
        "endsWith" => "ends with",
        "contains" => "contains the text",
        "matches" => "has a part that matches the pattern",
        _ => return is_true(expr),
    };
    match (target, arguments) {
        (Some(text), [argument]) | (None, [text, argument]) => {
            format!("{} {words} {}", noun(text), noun(argument))
        }
        _ => is_true(expr),
    }
}

/// What `expr` stands for.
fn noun(expr: &Expr) -> String {
    if let Some(path) = path_of(expr).filter(|path| !path.is_empty()) {
        let path = dotted(&path);
        return match WORDS.iter().find(|(known, _)| *known == path) {
            Some((_, words)) => format!("{words} (`{path}`)"),
            None => format!("the claim `{path}`"),
        };
    }
    match &expr.kind {
        ExprKind::Literal(Value::Text(text)) => cel::quoted(text),
        ExprKind::Literal(_) => cel::print(expr),
        ExprKind::Call { function, target, arguments } if function == "size" => {
            match (target, arguments.as_slice()) {
                (Some(of), []) => format!("the size of {}", noun(of)),
                (None, [of]) => format!("the size of {}", noun(of)),
                _ => format!("`{}`", cel::print(expr)),
            }
        }
        ExprKind::Call { function, target: None, arguments } if function == "int" => {
            match arguments.as_slice() {
                [of] => format!("{} as a whole number", noun(of)),
                _ => format!("`{}`", cel::print(expr)),
            }
        }
        _ => format!("`{}`", cel::print(expr)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_are_explained_in_words_with_their_place() {
        let text = "assertion.secboot == true && // comment\n \
            'STABLE' in assertion.submods.confidential_space.support_attributes &&\n\
            (!has(assertion.submods.container.cmd_override) || assertion.submods.container.cmd_override == null)";
        let explained = explain(&Condition::parse(text).unwrap());
        let found: Vec<_> = explained.iter().map(|e| (e.line, e.column, e.means.as_str())).collect();
        assert_eq!(
            found,
            [
                (1, 1, "secure boot is on (`secboot`)"),
                (
                    2,
                    2,
                    "the list of the VM image's support attributes (`submods.confidential_space.support_attributes`) contains 'STABLE'"
                ),
                (
                    3,
                    1,
                    "either the list of arguments from the operator (`submods.container.cmd_override`) is not in the token, or \
                the list of arguments from the operator (`submods.container.cmd_override`) is null"
                ),
            ]
        );
        assert_eq!(explained[0].clause, "assertion.secboot == true");
    }

    #[test]
    fn every_form_has_words() {
        for (text, means) in [
            ("assertion.a", "the claim `a` is true"),
            ("!assertion.a", "the claim `a` is false"),
            ("'x' == assertion.a", "the claim `a` is 'x'"),
            ("5 < assertion.a", "the claim `a` is more than 5"),
            ("assertion.a in ['x', 'y']", "the claim `a` is one of 'x', 'y'"),
            ("assertion.a.startsWith('x')", "the claim `a` starts with 'x'"),
            ("size(assertion.a) >= 1", "the size of the claim `a` is at least 1"),
            ("assertion.a.exists(x, x == 'b')", "for at least one element `x` of the claim `a`: `x` is 'b'"),
            (
                "assertion.a == 'b' ? true : assertion.c",
                "if the claim `a` is 'b', then nothing: every token meets this, else the claim `c` is true",
            ),
            ("assertion['a b'].c == 1", "the claim ``a b`.c` is 1"),
        ] {
            assert_eq!(explain(&Condition::parse(text).unwrap())[0].means, means, "{text}");
        }
    }
}
