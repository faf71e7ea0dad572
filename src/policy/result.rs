//! What the subcommands of `codeseal policy` share: a condition with its file, how results are printed, how a command ended.

use super::condition::Condition;

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON value.
    Json,
    /// GitHub's workflow commands: a line per finding, which becomes an annotation of the file.
    Github,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyOutcome {
    /// All is well.
    Good,
    /// The image is not clean, or the condition is not met.
    Bad,
    /// There is no verdict, or the condition cannot be used.
    Undecided,
}

impl PolicyOutcome {
    /// The exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Undecided => 2,
        }
    }
}

/// A condition, as read from a file.
pub struct ConditionFile {
    /// The file's name as it was given.
    pub name: String,
    /// The condition.
    pub condition: Condition,
}
