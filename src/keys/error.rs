//! What can go wrong with keys: closed sets, without any text of Google's or a user's.

use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::error::{CredentialsError, Error};

#[cfg(feature = "server")]
use crate::attestation::AttestationError;
use crate::protocol::ErrorCode;

/// One of Google's services on the way to a DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyService {
    /// The security token service: the launcher's token in, a federated token out.
    Sts,
    /// IAM credentials: a federated token in, the service account's out.
    Iam,
    /// Cloud KMS.
    Kms,
}

/// Why there is no DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum KeyError {
    /// KMS did not make this ciphertext, or what it holds is no DEK.
    #[error("the wrapped key was rejected: wrap a fresh key under this server's KMS key")]
    Rejected,
    /// KMS made this ciphertext under a version of the key that is disabled or destroyed.
    #[error("the wrapped key is of a disabled or destroyed key version: enable it, or wrap a fresh key")]
    KeyVersionDisabled,
    /// The launcher's token has expired.
    #[error("the attestation token has expired: wait for the launcher to make a new one")]
    AttestationExpired,
    /// There is no token of the launcher's, or it cannot be read.
    #[error("there is no readable attestation token: check the launcher's directory and this process's user")]
    AttestationMissing,
    /// STS does not know the provider (`invalid_target`).
    #[error("the workload identity provider does not exist or is disabled: check --wip-audience")]
    ProviderUnknown,
    /// The attribute condition of the provider is false for this workload (`unauthorized_client`).
    #[error("the attribute condition was not met: compare the token's claims with the provider's condition")]
    ConditionNotMet,
    /// STS does not accept the launcher's token (`invalid_grant`): its time, audience, issuer or signature.
    #[error(
        "the attestation token was refused: check the clock, and the issuer and audience of the provider"
    )]
    TokenRefused,
    /// STS refuses for another reason.
    #[error("the token exchange was refused: check that the Security Token Service API is enabled")]
    ExchangeRefused,
    /// IAM does not let the workload act as the service account.
    #[error("impersonation was refused: grant the workload identity user role on the service account")]
    ImpersonationRefused,
    /// KMS does not let the workload decrypt.
    #[error("KMS denied the decryption: grant the decrypter role on the key")]
    Denied,
    /// The key does not exist, or no version of it can be used.
    #[error("the KMS key is missing or disabled: check --kms-key and the state of its versions")]
    KeyUnusable,
    /// An answer of KMS did not have the checksum that it says.
    #[error("answers of KMS arrived damaged: check the network")]
    Corrupted,
    /// A service cannot be reached, failed, or answered something that is not its JSON.
    #[error("{0} is unavailable: try again later")]
    Unavailable(KeyService),
    /// A service did not answer in time.
    #[error("{0} did not answer in time: try again later")]
    Timeout(KeyService),
    /// The quota of a service is spent.
    #[error("the quota of {0} is spent: raise it, or try again later")]
    QuotaSpent(KeyService),
    /// Too many keys are being unwrapped, at the same time or in this minute.
    #[error("too many keys are being unwrapped: try again later")]
    Overloaded,
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot start: install CA certificates")]
    Setup,
}

impl KeyError {
    /// The code that a client gets. Only what is wrong with its key and the expired token are told apart.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::Rejected => ErrorCode::EnvelopeRejected,
            Self::KeyVersionDisabled => ErrorCode::KeyVersionDisabled,
            Self::AttestationExpired => ErrorCode::AttestationExpired,
            Self::Overloaded => ErrorCode::ServerBusy,
            _ => ErrorCode::KeyServiceUnavailable,
        }
    }

    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::KeyVersionDisabled => "key_version_disabled",
            Self::AttestationExpired => "attestation_expired",
            Self::AttestationMissing => "attestation_missing",
            Self::ProviderUnknown => "provider_unknown",
            Self::ConditionNotMet => "condition_not_met",
            Self::TokenRefused => "token_refused",
            Self::ExchangeRefused => "exchange_refused",
            Self::ImpersonationRefused => "impersonation_refused",
            Self::Denied => "denied",
            Self::KeyUnusable => "key_unusable",
            Self::Corrupted => "corrupted",
            Self::Unavailable(KeyService::Sts) => "sts_unavailable",
            Self::Unavailable(KeyService::Iam) => "iam_unavailable",
            Self::Unavailable(KeyService::Kms) => "kms_unavailable",
            Self::Timeout(KeyService::Sts) => "sts_timeout",
            Self::Timeout(KeyService::Iam) => "iam_timeout",
            Self::Timeout(KeyService::Kms) => "kms_timeout",
            Self::QuotaSpent(KeyService::Sts) => "sts_quota_spent",
            Self::QuotaSpent(KeyService::Iam) => "iam_quota_spent",
            Self::QuotaSpent(KeyService::Kms) => "kms_quota_spent",
            Self::Overloaded => "overloaded",
            Self::Setup => "setup",
        }
    }
}

impl std::fmt::Display for KeyService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Sts => "the token exchange (STS)",
            Self::Iam => "impersonation (IAM)",
            Self::Kms => "KMS",
        })
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

/// Why a KMS call failed, for both callers: the server's unwrapping and the client's wrapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// About the request: KMS did not make this ciphertext.
    Rejected,
    /// About the request: a version of the key that cannot be used now.
    VersionUnusable,
    /// About the key: this caller may not use it.
    Denied,
    /// About the key: there is none of this name.
    KeyMissing,
    Unauthenticated,
    Corrupted,
    QuotaSpent,
    Unavailable,
    Timeout,
}

impl Fault {
    /// Whether the very same call may succeed if it is made again.
    pub(super) fn is_transient(self) -> bool {
        matches!(self, Self::Corrupted | Self::QuotaSpent | Self::Unavailable | Self::Timeout)
    }
}

impl From<&Error> for Fault {
    /// KMS answers a foreign ciphertext, a wrong AAD and a bad checksum of ours alike: `InvalidArgument`. Which version
    /// of the key is meant stands in the ciphertext, so `FailedPrecondition` is about the request as well.
    fn from(error: &Error) -> Self {
        let Some(status) = error.status() else {
            return match error.http_status_code() {
                // A proxy's page has no code of Google's.
                Some(429) => Self::QuotaSpent,
                Some(504) => Self::Timeout,
                _ if error.is_timeout() => Self::Timeout,
                _ if error.is_authentication() && !may_heal(error) => Self::Unauthenticated,
                _ => Self::Unavailable,
            };
        };
        match status.code {
            Code::InvalidArgument => Self::Rejected,
            Code::FailedPrecondition => Self::VersionUnusable,
            // The name of a version is part of a ciphertext; that of the key is not.
            Code::NotFound if status.message.contains("ryptoKeyVersion") => Self::VersionUnusable,
            Code::NotFound => Self::KeyMissing,
            Code::PermissionDenied => Self::Denied,
            Code::Unauthenticated => Self::Unauthenticated,
            Code::ResourceExhausted => Self::QuotaSpent,
            Code::DeadlineExceeded => Self::Timeout,
            _ => Self::Unavailable,
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
            Fault::VersionUnusable => Self::KeyVersionDisabled,
            Fault::Denied | Fault::Unauthenticated => Self::Denied,
            Fault::KeyMissing => Self::KeyUnusable,
            Fault::Corrupted => Self::Corrupted,
            Fault::QuotaSpent => Self::QuotaSpent(KeyService::Kms),
            Fault::Unavailable => Self::Unavailable(KeyService::Kms),
            Fault::Timeout => Self::Timeout(KeyService::Kms),
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
            (Code::FailedPrecondition, Fault::VersionUnusable, false),
            (Code::PermissionDenied, Fault::Denied, false),
            (Code::NotFound, Fault::KeyMissing, false),
            (Code::Unauthenticated, Fault::Unauthenticated, false),
            (Code::ResourceExhausted, Fault::QuotaSpent, true),
            (Code::DeadlineExceeded, Fault::Timeout, true),
            (Code::Unavailable, Fault::Unavailable, true),
            (Code::Internal, Fault::Unavailable, true),
            (Code::Aborted, Fault::Unavailable, true),
            (Code::Unknown, Fault::Unavailable, true),
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
        for (status, fault) in [(502, Fault::Unavailable), (504, Fault::Timeout), (429, Fault::QuotaSpent)] {
            let page = Error::http(status, Default::default(), "<html>".into());
            assert_eq!(Fault::from(&page), fault);
        }
    }

    #[test]
    fn a_missing_version_is_about_the_request_and_a_missing_key_is_not() {
        let missing = |what: &str| {
            let status = Status::default().set_code(Code::NotFound).set_message(format!("{what} not found."));
            Fault::from(&Error::service(status))
        };
        let key = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
        assert_eq!(missing(&format!("CryptoKey {key}")), Fault::KeyMissing);
        assert_eq!(missing(&format!("CryptoKeyVersion {key}/cryptoKeyVersions/7")), Fault::VersionUnusable);
    }

    #[test]
    fn only_what_is_wrong_with_the_clients_key_is_told() {
        assert_eq!(KeyError::Rejected.code(), ErrorCode::EnvelopeRejected);
        assert_eq!(KeyError::KeyVersionDisabled.code(), ErrorCode::KeyVersionDisabled);
        assert_eq!(KeyError::AttestationExpired.code(), ErrorCode::AttestationExpired);
        assert_eq!(KeyError::Denied.code(), ErrorCode::KeyServiceUnavailable);
        assert_eq!(KeyError::KeyUnusable.code(), ErrorCode::KeyServiceUnavailable);
        assert_eq!(KeyError::Overloaded.code(), ErrorCode::ServerBusy);
    }
}
