//! The syntax tree: one node per construct of the source, macros not expanded.

use super::value::Value;

/// The engine's bound on the height of the tree. A chain of `&&` or `||` counts once.
pub(super) const MAX_HEIGHT: usize = 32;

/// Bytes of the source: from, to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Span {
    pub(in crate::policy) start: usize,
    pub(in crate::policy) end: usize,
}

/// A node.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Expr {
    pub(in crate::policy) kind: ExprKind,
    /// All of it, with the parentheses around it.
    pub(in crate::policy) span: Span,
    /// Where the engine reports its errors: the operator or the name.
    pub(in crate::policy) at: usize,
    pub(super) height: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum BinaryOp {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

impl BinaryOp {
    /// As in the source.
    pub(in crate::policy) fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::In => "in",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
        }
    }

    /// Binding strength: 3 comparison, 4 sum, 5 product.
    pub(super) fn strength(self) -> u8 {
        match self {
            Self::Add | Self::Subtract => 4,
            Self::Multiply | Self::Divide | Self::Modulo => 5,
            _ => 3,
        }
    }
}

/// The macros over lists and keys of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Macro {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

impl Macro {
    pub(in crate::policy) fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Exists => "exists",
            Self::ExistsOne => "exists_one",
            Self::Map => "map",
            Self::Filter => "filter",
        }
    }
}

#[derive(Clone, Debug)]
pub(in crate::policy) enum ExprKind {
    Literal(Value),
    /// `absolute`: with a leading dot, so that no macro's variable is meant.
    Ident {
        name: String,
        absolute: bool,
    },
    Select {
        operand: Box<Expr>,
        field: String,
    },
    Has {
        operand: Box<Expr>,
        field: String,
    },
    Index {
        operand: Box<Expr>,
        index: Box<Expr>,
    },
    Call {
        function: String,
        target: Option<Box<Expr>>,
        arguments: Vec<Expr>,
    },
    Not(Box<Expr>),
    Negate(Box<Expr>),
    Binary {
        op: BinaryOp,
        left: Box<Expr>,
        right: Box<Expr>,
    },
    /// A chain of at least two operands.
    And(Vec<Expr>),
    /// A chain of at least two operands.
    Or(Vec<Expr>),
    Conditional {
        condition: Box<Expr>,
        then: Box<Expr>,
        otherwise: Box<Expr>,
    },
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Comprehension {
        name: Macro,
        range: Box<Expr>,
        variable: String,
        /// Of `map` with three arguments.
        filter: Option<Box<Expr>>,
        body: Box<Expr>,
    },
}

impl Expr {
    /// The nodes right below.
    pub(in crate::policy) fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            ExprKind::Literal(_) | ExprKind::Ident { .. } => Vec::new(),
            ExprKind::Select { operand, .. } | ExprKind::Has { operand, .. } => vec![operand],
            ExprKind::Not(operand) | ExprKind::Negate(operand) => vec![operand],
            ExprKind::Index { operand, index } => vec![operand, index],
            ExprKind::Call { target, arguments, .. } => {
                target.iter().map(|t| &**t).chain(arguments).collect()
            }
            ExprKind::Binary { left, right, .. } => vec![left, right],
            ExprKind::And(operands) | ExprKind::Or(operands) | ExprKind::List(operands) => {
                operands.iter().collect()
            }
            ExprKind::Conditional { condition, then, otherwise } => vec![condition, then, otherwise],
            ExprKind::Map(entries) => entries.iter().flat_map(|(key, value)| [key, value]).collect(),
            ExprKind::Comprehension { range, filter, body, .. } => [Some(range), filter.as_ref(), Some(body)]
                .into_iter()
                .flatten()
                .map(|child| &**child)
                .collect(),
        }
    }
}
