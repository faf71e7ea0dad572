//! Why a server is not trusted, one exit code for each.

use serde::Serialize;

use crate::attestation::ProfileMismatch;
use crate::attestation::verify::VerifyError;

/// Why a server is not trusted. The numbers are exit codes of `codeseal verify` and `codeseal complete --verify`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Untrusted {
    /// The token is no attestation token.
    #[error("the attestation token is malformed: this is no codeseal server, or no Confidential Space")]
    Malformed = 10,
    /// It is not signed with RS256.
    #[error("the attestation token is not signed with RS256: do not trust this server")]
    Algorithm = 11,
    /// The issuer has no such key.
    #[error(
        "the attestation token is signed with a key that the issuer does not have: do not trust this server"
    )]
    UnknownKey = 12,
    /// The signature is wrong.
    #[error("the attestation token's signature is wrong: do not trust this server")]
    Signature = 13,
    /// The certificates do not lead to the pinned root.
    #[error("the attestation token's certificates do not lead to the pinned root: do not trust this server")]
    Chain = 14,
    /// Another issuer made it.
    #[error("the attestation token comes from another issuer: compare `issuer` in the policy")]
    Issuer = 15,
    /// It was made for another audience.
    #[error("the attestation token was made for another audience: another service may have asked for it")]
    Audience = 16,
    /// It has expired.
    #[error("the attestation token has expired: it may be a replay, or this machine's clock is off")]
    Expired = 17,
    /// It is not valid yet.
    #[error("the attestation token is not valid yet: check this machine's clock")]
    NotYetValid = 18,
    /// It lacks the client's nonce or the server's identity.
    #[error(
        "the attestation token does not repeat our nonce and bind the server's identity: it may be a replay"
    )]
    Nonce = 19,
    /// A debug image: the operator can log in to the VM.
    #[error("the server runs on a debug image: its operator can read everything")]
    DebugImage = 20,
    /// The VM has not booted securely.
    #[error("the server's VM has not booted securely")]
    SecureBoot = 21,
    /// The operator has changed arguments or environment.
    #[error("the operator has changed the server's arguments or environment")]
    Overridden = 22,
    /// The hardware or the operating system is not the profile's.
    #[error(
        "the server's hardware or operating system is not the profile's: compare `profile` in the policy"
    )]
    Platform = 23,
    /// The platform's firmware has known holes.
    #[error("the server's TDX firmware is not up to date")]
    Firmware = 24,
    /// The VM's image is no stable one.
    #[error("the server's VM image is not a stable one of Confidential Space")]
    Support = 25,
    /// Nothing attests to the GPU, or not to what it must.
    #[error("the server has no attested GPU in confidential mode")]
    Gpu = 26,
    /// Another image runs.
    #[error("the server runs an image that the policy does not name")]
    ImageDigest = 27,
    /// The image has another name.
    #[error("the server's image was pulled by a name that is not in the policy")]
    ImageReference = 28,
    /// The image is not signed by the right key.
    #[error("the server's image is not signed with a key that the policy names")]
    ImageSigner = 29,
    /// The VM acts as another account.
    #[error("the server's service accounts are not in the policy")]
    ServiceAccount = 30,
    /// The VM is in another project.
    #[error("the server's project is not in the policy")]
    Project = 31,
    /// Another executable runs.
    #[error("the server's build is not in the policy")]
    Build = 32,
    /// Another model runs.
    #[error("the server's weights are not in the policy")]
    Weights = 33,
    /// It is another GPU.
    #[error("the server's GPU is not in the policy")]
    GpuIdentity = 34,
}

impl Untrusted {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Malformed,
        Self::Algorithm,
        Self::UnknownKey,
        Self::Signature,
        Self::Chain,
        Self::Issuer,
        Self::Audience,
        Self::Expired,
        Self::NotYetValid,
        Self::Nonce,
        Self::DebugImage,
        Self::SecureBoot,
        Self::Overridden,
        Self::Platform,
        Self::Firmware,
        Self::Support,
        Self::Gpu,
        Self::ImageDigest,
        Self::ImageReference,
        Self::ImageSigner,
        Self::ServiceAccount,
        Self::Project,
        Self::Build,
        Self::Weights,
        Self::GpuIdentity,
    ];

    /// The status that the process exits with.
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

impl From<VerifyError> for Untrusted {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Malformed | VerifyError::MissingClaim => Self::Malformed,
            VerifyError::Algorithm => Self::Algorithm,
            VerifyError::UnknownKey => Self::UnknownKey,
            VerifyError::Chain => Self::Chain,
            VerifyError::Signature => Self::Signature,
            VerifyError::Issuer => Self::Issuer,
            VerifyError::Audience => Self::Audience,
            VerifyError::Expired => Self::Expired,
            VerifyError::NotYetValid => Self::NotYetValid,
        }
    }
}

impl From<ProfileMismatch> for Untrusted {
    fn from(mismatch: ProfileMismatch) -> Self {
        match mismatch.claim {
            "dbgstat" => Self::DebugImage,
            "secboot" => Self::SecureBoot,
            "submods.container.cmd_override" | "submods.container.env_override" => Self::Overridden,
            "submods.confidential_space.support_attributes" => Self::Support,
            claim if claim.starts_with("tdx") => Self::Firmware,
            claim if claim.starts_with("submods.nvidia_gpu") => Self::Gpu,
            _ => Self::Platform,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_code_of_its_own_that_means_nothing_else() {
        let codes: Vec<u8> = Untrusted::ALL.iter().map(|reason| reason.exit_code()).collect();
        assert_eq!(codes, (10..=34).collect::<Vec<u8>>());
    }
}
