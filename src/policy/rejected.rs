//! Why a condition or a mapping cannot be used, and where in its text.

use serde::Serialize;

use super::cel::{Rejected, Undecided};

/// Google's bound on an attribute condition, in characters.
pub(super) const MAX_CHARACTERS: usize = 4096;

/// A position in a text: line and column, both from 1. Columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Why a condition cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConditionError {
    /// Longer than Google takes.
    #[error("the attribute condition has {0} characters: {MAX_CHARACTERS} at most")]
    TooLong(usize),
    /// The text starts with U+FEFF.
    #[error(
        "the attribute condition starts with a byte-order mark (U+FEFF): save the file as UTF-8 without one"
    )]
    ByteOrderMark,
    /// Google rejects it when the provider is created or updated.
    #[error("line {}, column {}: {message}{}", place.line, place.column, hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default())]
    Invalid {
        /// Where.
        place: Position,
        /// What is wrong.
        message: String,
        /// What was probably meant, or what to do.
        hint: Option<String>,
    },
    /// It is not known whether Google takes it.
    #[error("line {}, column {}: undecided: {why}", place.line, place.column)]
    Undecided {
        /// Where.
        place: Position,
        /// Why.
        why: Undecided,
    },
}

impl ConditionError {
    pub(super) fn at(text: &str, rejected: Rejected) -> Self {
        match rejected {
            Rejected::Problem(problem) => {
                Self::Invalid { place: place(text, problem.at), message: problem.message, hint: problem.hint }
            }
            Rejected::Undecided(at, why) => Self::Undecided { place: place(text, at), why },
        }
    }

    /// Where in the text.
    pub fn place(&self) -> Position {
        match self {
            Self::Invalid { place, .. } | Self::Undecided { place, .. } => *place,
            Self::TooLong(_) | Self::ByteOrderMark => Position { line: 1, column: 1 },
        }
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> String {
        match self {
            Self::Invalid { message, hint: Some(hint), .. } => format!("{message}: {hint}"),
            Self::Invalid { message, hint: None, .. } => message.clone(),
            Self::Undecided { why, .. } => format!("undecided: {why}"),
            other => other.to_string(),
        }
    }
}

/// The line and column of a byte of `text`.
pub(super) fn place(text: &str, at: usize) -> Position {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    Position { line: before.matches('\n').count() + 1, column }
}
