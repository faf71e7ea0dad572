//! What can go wrong with keys: closed sets, without any text of Google's or a user's.
//!
//! Must not touch: answers. Which HTTP status goes out is written in [`ErrorCode`].

use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::error::{CredentialsError, Error};
use serde::Serialize;

#[cfg(feature = "server")]
use crate::attestation::AttestationError;
use crate::protocol::ErrorCode;

/// Why there is no DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum KeyError {
    /// KMS did not make this ciphertext, or what it holds is no DEK.
    #[error("the wrapped key was rejected: wrap a fresh key under this server's KMS key")]
    Rejected,
    /// The launcher's token has expired.
    #[error("the attestation token has expired: wait for the launcher to make a new one")]
    AttestationExpired,
    /// There is no token of the launcher's, or it cannot be read.
    #[error("there is no readable attestation token: check the launcher's directory and this process's user")]
    AttestationMissing,
    /// STS does not accept the workload.
    #[error("the token exchange was refused: compare the token's claims with the pool's attribute condition")]
    ExchangeRefused,
    /// IAM does not let the workload act as the service account.
    #[error("impersonation was refused: grant the workload identity user role on the service account")]
    ImpersonationRefused,
    /// KMS does not let the workload decrypt.
    #[error("KMS denied the decryption: grant the decrypter role on the key")]
    Denied,
    /// The key does not exist, or it is disabled.
    #[error("the KMS key is missing or disabled: enable its primary version")]
    KeyUnusable,
    /// An answer of KMS did not have the checksum that it says.
    #[error("answers of KMS arrived damaged: check the network")]
    Corrupted,
    /// A service cannot be reached, failed, or is out of quota.
    #[error("the key service is unavailable: try again later")]
    Unavailable,
    /// A service did not answer in time.
    #[error("the key service did not answer in time: try again later")]
    Timeout,
    /// Too many keys are being unwrapped at the same time.
    #[error("too many keys are being unwrapped: try again later")]
    Overloaded,
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot start: install CA certificates")]
    Setup,
}

impl KeyError {
    /// The code that a client gets. Only its own mistakes and the expired token are told apart.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Rejected => ErrorCode::EnvelopeRejected,
            Self::AttestationExpired => ErrorCode::AttestationExpired,
            Self::Overloaded => ErrorCode::ServerBusy,
            _ => ErrorCode::KeyServiceUnavailable,
        }
    }

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::AttestationExpired => "attestation_expired",
            Self::AttestationMissing => "attestation_missing",
            Self::ExchangeRefused => "exchange_refused",
            Self::ImpersonationRefused => "impersonation_refused",
            Self::Denied => "denied",
            Self::KeyUnusable => "key_unusable",
            Self::Corrupted => "corrupted",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Setup => "setup",
        }
    }
}

#[cfg(feature = "server")]
impl From<AttestationError> for KeyError {
    fn from(error: AttestationError) -> Self {
        match error {
            AttestationError::Expired | AttestationError::ClockOff => Self::AttestationExpired,
            _ => Self::AttestationMissing,
        }
    }
}

/// What a KMS call can end with, for whoever called: the server's unwrapping or the client's wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Rejected,
    Denied,
    KeyUnusable,
    Unauthenticated,
    Corrupted,
    Unavailable,
    Timeout,
}

impl Fault {
    /// Whether the very same call may succeed if it is made again.
    pub(super) fn is_transient(self) -> bool {
        matches!(self, Self::Corrupted | Self::Unavailable | Self::Timeout)
    }
}

impl From<&Error> for Fault {
    /// KMS answers a foreign ciphertext, a wrong AAD and a bad checksum of ours alike: `InvalidArgument`.
    fn from(error: &Error) -> Self {
        match error.status().map(|status| status.code) {
            Some(Code::InvalidArgument) => Self::Rejected,
            Some(Code::PermissionDenied) => Self::Denied,
            Some(Code::NotFound | Code::FailedPrecondition) => Self::KeyUnusable,
            Some(Code::Unauthenticated) => Self::Unauthenticated,
            Some(_) => Self::Unavailable,
            None if error.is_timeout() => Self::Timeout,
            None if error.is_authentication() && !may_heal(error) => Self::Unauthenticated,
            None => Self::Unavailable,
        }
    }
}

/// Whether Google's credentials failed for a reason that passes, such as a network that is down.
fn may_heal(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    source
        .and_then(|source| source.downcast_ref::<CredentialsError>())
        .is_some_and(CredentialsError::is_transient)
}

impl From<Fault> for KeyError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Rejected => Self::Rejected,
            Fault::Denied | Fault::Unauthenticated => Self::Denied,
            Fault::KeyUnusable => Self::KeyUnusable,
            Fault::Corrupted => Self::Corrupted,
            Fault::Unavailable => Self::Unavailable,
            Fault::Timeout => Self::Timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use google_cloud_gax::error::rpc::Status;

    use super::*;

    #[test]
    fn a_kms_status_becomes_a_fault() {
        for (code, fault, transient) in [
            (Code::InvalidArgument, Fault::Rejected, false),
            (Code::PermissionDenied, Fault::Denied, false),
            (Code::NotFound, Fault::KeyUnusable, false),
            (Code::FailedPrecondition, Fault::KeyUnusable, false),
            (Code::Unauthenticated, Fault::Unauthenticated, false),
            (Code::ResourceExhausted, Fault::Unavailable, true),
            (Code::Unavailable, Fault::Unavailable, true),
            (Code::Internal, Fault::Unavailable, true),
        ] {
            let error = Error::service(Status::default().set_code(code));
            assert_eq!(Fault::from(&error), fault);
            assert_eq!(fault.is_transient(), transient);
        }
        assert_eq!(Fault::from(&Error::timeout("t")), Fault::Timeout);
        assert_eq!(Fault::from(&Error::io("i")), Fault::Unavailable);
        let login = |transient| Error::authentication(CredentialsError::from_msg(transient, "m"));
        assert_eq!(Fault::from(&login(true)), Fault::Unavailable);
        assert_eq!(Fault::from(&login(false)), Fault::Unauthenticated);
        let page = Error::http(502, Default::default(), "<html>".into());
        assert_eq!(Fault::from(&page), Fault::Unavailable);
    }

    #[test]
    fn only_the_clients_own_mistake_is_a_rejection() {
        assert_eq!(KeyError::Rejected.code(), ErrorCode::EnvelopeRejected);
        assert_eq!(KeyError::AttestationExpired.code(), ErrorCode::AttestationExpired);
        assert_eq!(KeyError::Denied.code(), ErrorCode::KeyServiceUnavailable);
        assert_eq!(KeyError::Overloaded.code(), ErrorCode::ServerBusy);
    }

    #[test]
    fn the_name_in_logs_is_the_serialized_one() {
        for error in
            [KeyError::Rejected, KeyError::AttestationExpired, KeyError::KeyUnusable, KeyError::Setup]
        {
            assert_eq!(serde_json::to_value(error).unwrap(), error.as_str());
        }
    }
}
