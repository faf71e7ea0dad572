//! Why a server cannot be used now.

use super::pins::Changed;
use crate::client::{ClientError, NotAuthentic};
use crate::proxy::error::Failure;
use crate::proxy::golden::BadAnswer;

/// What an attempt to begin a session fails with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The server is as the policy demands, and is another one than before.
    #[error(transparent)]
    Changed(#[from] Changed),
    /// The model does not complete code.
    #[error(transparent)]
    Golden(#[from] BadAnswer),
}

impl Trouble {
    /// What it is to an editor.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Client(error) => Failure::of(error),
            Self::Changed(changed) => Failure::NotVerified(changed.to_string()),
            Self::Golden(bad) => Failure::ModelFailed(*bad),
        }
    }

    /// Whether a session may be good although a request under it has failed so.
    pub(super) fn outlives(&self) -> bool {
        match self {
            Self::Client(ClientError::Unreachable(_) | ClientError::TimedOut { .. }) | Self::Golden(_) => {
                true
            }
            Self::Client(ClientError::Refused(refusal)) => matches!(refusal.status, 429 | 503),
            Self::Client(_) | Self::Changed(_) => false,
        }
    }
}

impl From<NotAuthentic> for Trouble {
    fn from(error: NotAuthentic) -> Self {
        Self::Client(error.into())
    }
}
