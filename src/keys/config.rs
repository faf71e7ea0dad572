//! What the key service is told: which key, which identity, where, and how long to wait.

use std::path::PathBuf;
use std::time::Duration;

use super::names::{KeyName, ServiceAccount, WipAudience};

/// What an access token is good for: all that IAM grants to the workload, which is to decrypt.
pub(super) const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";

/// How the workload gets DEKs unwrapped.
#[derive(Clone, Debug)]
pub struct KmsConfig {
    /// The key that wraps them.
    pub key: KeyName,
    /// The provider of the workload identity pool that trusts the launcher's token.
    pub wip_audience: WipAudience,
    /// The launcher's token file.
    pub token_file: PathBuf,
    /// The launcher's socket, for when the file has no valid token.
    pub token_socket: Option<PathBuf>,
    /// The service account to act as; without one, IAM must grant the key to the federated identity itself.
    pub impersonate: Option<ServiceAccount>,
    /// Whose services are called.
    pub endpoint: Endpoint,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// How much to remember.
    pub cache: CacheLimits,
}

/// Whose STS, IAM and KMS are called.
///
/// The override exists only with the `sandbox` feature, which production images lack: an operator who could set it could
/// have the attestation token sent to a server of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Endpoint {
    /// Google's.
    #[default]
    Google,
    /// A local Confidential Space at this base URL, such as `http://127.0.0.1:8200`.
    #[cfg(feature = "sandbox")]
    Sandbox(String),
}

/// How long each step of unwrapping a key may take. A longer wait is an error, never a hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Unwrapping one key, from the token exchange to the last retry.
    pub overall: Duration,
    /// The token exchange with its retries; must be shorter than `overall`.
    pub exchange: Duration,
    /// One call of STS or IAM.
    pub exchange_attempt: Duration,
    /// One call of KMS.
    pub kms_attempt: Duration,
    /// One call of the launcher's socket, each of which makes a new attestation.
    pub launcher: Duration,
    /// The pause before the first retry; it doubles with each.
    pub backoff: Duration,
    /// How long the error of a failed exchange is returned without another attempt, so that STS is not flooded.
    pub pause_after_failure: Duration,
}

/// Bounds of the DEK cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// How long a DEK is kept after KMS gave it, however often it is used: as long a revoked grant still works.
    pub ttl: Duration,
    /// How many DEKs are kept; the one that was not used for longest goes first.
    pub deks: usize,
    /// How long KMS is not asked again about a key that it rejected.
    pub rejected_ttl: Duration,
    /// How long KMS is not asked again about a key of a version that was disabled. Shorter: it may be enabled again.
    pub disabled_ttl: Duration,
    /// How many keys of each of these two kinds are remembered; they never take a DEK's place.
    pub rejected: usize,
    /// How many keys are unwrapped at the same time; one more is refused as overload.
    pub in_flight: usize,
    /// How many calls of KMS requests may cause in a minute; one more is refused as overload. All replicas share the
    /// project's quota, and anyone can make up wrapped keys.
    pub calls_per_minute: u32,
    /// How many of these may come at once, after a restart for example.
    pub calls_at_once: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            overall: Duration::from_secs(10),
            exchange: Duration::from_secs(7),
            exchange_attempt: Duration::from_secs(3),
            kms_attempt: Duration::from_millis(2500),
            launcher: Duration::from_secs(5),
            backoff: Duration::from_millis(100),
            pause_after_failure: Duration::from_secs(1),
        }
    }
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(600),
            deks: 1024,
            rejected_ttl: Duration::from_secs(30),
            disabled_ttl: Duration::from_secs(5),
            rejected: 1024,
            in_flight: 256,
            calls_per_minute: 1800,
            calls_at_once: 512,
        }
    }
}

impl Endpoint {
    /// Where KMS is, unless it is where Google's client looks anyway.
    pub(super) fn kms(&self) -> Option<&str> {
        match self {
            Self::Google => None,
            #[cfg(feature = "sandbox")]
            Self::Sandbox(url) => Some(url),
        }
    }

    #[cfg(feature = "server")]
    pub(super) fn sts_url(&self) -> String {
        match self {
            Self::Google => "https://sts.googleapis.com/v1/token".to_owned(),
            #[cfg(feature = "sandbox")]
            Self::Sandbox(url) => format!("{url}/v1/token"),
        }
    }

    #[cfg(feature = "server")]
    pub(super) fn impersonation_url(&self, account: &ServiceAccount) -> String {
        let base = match self {
            Self::Google => "https://iamcredentials.googleapis.com",
            #[cfg(feature = "sandbox")]
            Self::Sandbox(url) => url,
        };
        format!("{base}/v1/projects/-/serviceAccounts/{account}:generateAccessToken")
    }
}
