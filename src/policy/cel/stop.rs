//! Why an expression has no value.

use super::value::Value;
use super::{Reason, Undecided};

/// An error of the language: a claim is missing, a type does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) struct EvalError {
    pub(in crate::policy) message: String,
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Stop {
    /// `&&`, `||` and the like may still decide.
    Error(EvalError),
    /// The engine gives up at once.
    Fatal(EvalError),
    /// It is not known what the engine does.
    Undecided(Undecided),
}

pub(super) type Evaluated = Result<Value, Stop>;

impl Stop {
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::Error(EvalError { message: message.into() })
    }

    pub(super) fn undecided(reason: Reason, message: impl Into<String>) -> Self {
        Self::Undecided(Undecided::new(reason, message))
    }
}

/// The error of an operator or a function without an overload for values of these types.
pub(super) fn no_overload(name: &str, given: &[&Value]) -> Stop {
    let types: Vec<&str> = given.iter().map(|value| value.type_name().name()).collect();
    Stop::error(format!("`{name}` does not take a value of type {}", types.join(" and ")))
}
