//! Why there is no attestation token, told apart by what to do about it.

use serde::Serialize;

/// Why there is no attestation token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum AttestationError {
    /// Neither file nor socket has one.
    #[error("there is no attestation token: run inside Confidential Space, with the launcher's directory")]
    Missing,
    /// The launcher's directory or socket is closed to this user.
    #[error(
        "the attestation token is not readable for this user: preview VM images let only root enter its \
         directory, so build the image for them with RUNTIME_USER=0"
    )]
    NotReadable,
    /// The path of the token file names a pipe, a device, a socket or a directory.
    #[error("--attestation-token does not name a regular file: name the token file of the launcher")]
    NotAFile,
    /// The token file is longer than any token.
    #[error(
        "--attestation-token names a file that is longer than any token: name the token file of the launcher"
    )]
    TooLong,
    /// The path of the launcher's socket names something else.
    #[error(
        "there is no token file, and --attestation-socket does not name a socket: name those of the launcher"
    )]
    NotASocket,
    /// What is there is no token.
    #[error("the attestation token is malformed: ask the launcher for a new one")]
    Malformed,
    /// It is not valid yet, or it was made just now and has expired.
    #[error("the attestation token's times do not fit this machine's clock: set the clock")]
    ClockOff,
    /// It has expired, and the launcher has not made a new one.
    #[error("the attestation token has expired: wait for the launcher to make a new one")]
    Expired,
    /// The launcher does not take the request.
    #[error("the launcher refused the token request: check audience and nonces")]
    Refused,
    /// The launcher's socket is not there, or the launcher failed.
    #[error("the launcher does not serve tokens: look at its log")]
    Unreachable,
    /// The launcher did not answer in time.
    #[error("the launcher did not answer in time: try again")]
    Timeout,
}

impl AttestationError {
    /// The name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::NotReadable => "not_readable",
            Self::NotAFile => "not_a_file",
            Self::TooLong => "too_long",
            Self::NotASocket => "not_a_socket",
            Self::Malformed => "malformed",
            Self::ClockOff => "clock_off",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_logs_is_the_serialized_one() {
        for error in [
            AttestationError::Missing,
            AttestationError::NotReadable,
            AttestationError::NotAFile,
            AttestationError::TooLong,
            AttestationError::NotASocket,
            AttestationError::Malformed,
            AttestationError::ClockOff,
            AttestationError::Expired,
            AttestationError::Refused,
            AttestationError::Unreachable,
            AttestationError::Timeout,
        ] {
            assert_eq!(serde_json::to_value(error).unwrap(), error.as_str());
        }
    }
}
