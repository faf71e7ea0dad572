//! Why the server does not start, or does not go on, and the status that the process then exits with.

use crate::attestation::{AttestationError, Malformed, ProfileMismatch};
use crate::engine::{OpenError, StartError};
use crate::hub::{HubError, ManifestError};
use crate::keys::KeyError;

/// Why the server did not start, or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// There is no token to check at the start.
    #[error(transparent)]
    Attestation(#[from] AttestationError),
    /// A path that is configured names something else than it must.
    #[error("{source} (it is {path})")]
    AttestationPath {
        /// The path, escaped.
        path: String,
        /// What it must name.
        source: AttestationError,
    },
    /// The token at the start is malformed.
    #[error(transparent)]
    AttestationMalformed(#[from] Malformed),
    /// An address cannot be listened on.
    #[error("cannot listen on {flag}: {source}")]
    Listen {
        /// The flag that names the address.
        flag: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The device that the model ran on has failed.
    #[error("{0}")]
    DeviceFailed(String),
    /// The model thread is gone.
    #[error("the model has stopped working")]
    EngineStopped,
    /// The model cannot be loaded or downloaded.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// The clients of the key service cannot be made.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The built-in manifest is broken.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The model does not load.
    #[error(transparent)]
    Model(#[from] OpenError),
    /// The system gives no random numbers, or no timer for shaped answers.
    #[error("the system gives no random numbers, or no timer for --stream-shaping: {0}")]
    State(#[source] std::io::Error),
    /// A part of the server panicked.
    #[error("the server failed while it started")]
    Panicked,
    /// The executable or the model cannot be read once more.
    #[error("cannot hash the executable and the model: {0}")]
    Identity(#[source] std::io::Error),
    /// This machine does not fit the profile.
    #[error(transparent)]
    Profile(#[from] ProfileMismatch),
    /// The attestation token has expired, and the policy is to exit.
    #[error("the attestation token has expired, and --on-token-expiry is exit")]
    TokenExpired,
}

impl ServeError {
    /// The status that the process exits with, as `--help` lists it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Listen { .. } => 64,
            Self::Model(OpenError::Start(StartError::TooFewBlocks { .. })) => 64,
            Self::DeviceFailed(_)
            | Self::Model(OpenError::Start(StartError::Device(_) | StartError::NotEnoughMemory(_))) => 69,
            Self::TokenExpired => 75,
            Self::Attestation(_)
            | Self::AttestationPath { .. }
            | Self::AttestationMalformed(_)
            | Self::Profile(_) => 78,
            _ => 70,
        }
    }
}
