//! Why an expression has no value.

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

impl Stop {
    pub(super) fn error(message: impl Into<String>) -> Self {
        Self::Error(EvalError { message: message.into() })
    }

    pub(super) fn undecided(reason: Reason, message: impl Into<String>) -> Self {
        Self::Undecided(Undecided::new(reason, message))
    }
}
