//! The Common Expression Language, as far as attribute conditions use it: parsed, type-checked, evaluated.
//!
//! It decides as Google's C++ engine does, or says that it does not know: [`Undecided`] is never a verdict. The
//! language definition is google/cel-spec; where it leaves room, the engine's behavior was observed, and
//! `tests/vectors/cel/` holds this module to it.

mod ast;
mod builtins;
mod calls;
mod check;
mod convert;
mod eval;
mod evaluated;
mod functions;
mod lex;
mod literal;
mod number;
mod parse;
mod print;
mod re2;
mod re2_class;
mod re2_node;
mod re2_parse;
mod rounds;
mod steps;
mod stop;
mod suggest;
mod text;
mod time;
mod types;
mod value;

use std::fmt;

pub(super) use self::ast::{BinaryOp, Expr, ExprKind, Macro};
pub(super) use self::check::{MappedKind, check, mapped_kind};
pub(super) use self::eval::{Activation, evaluate};
pub(super) use self::lex::tidy;
pub(super) use self::parse::parse;
pub(super) use self::print::{print, quoted};
pub(super) use self::stop::{EvalError, Stop};
pub(super) use self::value::{Key, NumberReading, Value};

/// What Google's engine rejects before anything is evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Where: bytes from the start of the text.
    pub(super) at: usize,
    /// What is wrong.
    pub(super) message: String,
    /// What was probably meant, or what to do.
    pub(super) hint: Option<String>,
}

impl Problem {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into(), hint: None }
    }

    fn hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint;
        self
    }
}

/// Why there is no verdict. docs/policy.md lists the kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The verdict depends on whether JSON numbers are read as `int` or as `double`.
    NumberReading,
    /// `google.*` or `attribute.*` without `--attribute-mapping`, or an attribute of a type that is not documented.
    AttributeMapping,
    /// A function of a CEL extension that Google does not document for workload identity federation.
    UndocumentedFunction,
    /// `extract` with a template of a form that Google does not document.
    ExtractTemplate,
    /// A protobuf message or its type.
    ProtobufMessage,
    /// More evaluation steps than the engine takes.
    Budget,
    /// The result depends on the order of a map's keys.
    MapOrder,
    /// A pattern with Unicode tables (`\p`, `(?i)`), held against text outside ASCII.
    UnicodeTables,
    /// A pattern that may exceed the engine's program size.
    PatternSize,
    /// `\C`, which matches a byte.
    PatternBytes,
    /// A time zone by name, or an offset in an unusual form.
    TimeZone,
    /// A number in a text form whose conversion is not defined: hexadecimal, `nan(…)`, the sign of NaN.
    NumberText,
    /// A duration with more decimals than the engine represents.
    DurationText,
}

impl Reason {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::NumberReading,
        Self::AttributeMapping,
        Self::UndocumentedFunction,
        Self::ExtractTemplate,
        Self::ProtobufMessage,
        Self::Budget,
        Self::MapOrder,
        Self::UnicodeTables,
        Self::PatternSize,
        Self::PatternBytes,
        Self::TimeZone,
        Self::NumberText,
        Self::DurationText,
    ];

    /// A stable name.
    pub fn kind(self) -> &'static str {
        match self {
            Self::NumberReading => "number-reading",
            Self::AttributeMapping => "attribute-mapping",
            Self::UndocumentedFunction => "undocumented-function",
            Self::ExtractTemplate => "extract-template",
            Self::ProtobufMessage => "protobuf-message",
            Self::Budget => "budget",
            Self::MapOrder => "map-order",
            Self::UnicodeTables => "unicode-tables",
            Self::PatternSize => "pattern-size",
            Self::PatternBytes => "pattern-bytes",
            Self::TimeZone => "time-zone",
            Self::NumberText => "number-text",
            Self::DurationText => "duration-text",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.kind())
    }
}

/// There is no verdict, and why.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Undecided {
    /// Which kind of reason.
    pub reason: Reason,
    /// The reason in words, with what to do.
    pub message: String,
}

impl Undecided {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

/// Why an expression is not evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rejected {
    /// The engine rejects it.
    Problem(Problem),
    /// It is not known what the engine does: where, and why.
    Undecided(usize, Undecided),
}

impl From<Problem> for Rejected {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}
