//! The client's side of the key: KMS wraps a fresh DEK, once for each session.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use google_cloud_auth::credentials::{Builder, Credentials};

use super::config::{Endpoint, SCOPE};
use super::error::Fault;
use super::kms::Kms;
use super::names::KeyName;
use super::retry::retry;
use crate::protocol::{Dek, WrappedDek};

/// One call of KMS.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Wrapping one key, retries included.
const OVERALL_TIMEOUT: Duration = Duration::from_secs(20);

/// The pause before the first retry.
const BACKOFF: Duration = Duration::from_millis(200);

/// How DEKs are wrapped.
#[derive(Clone, Debug)]
pub struct WrapConfig {
    /// The key to wrap them with: the one that the server unwraps with.
    pub key: KeyName,
    /// Whose KMS is called.
    pub endpoint: Endpoint,
}

/// Wraps DEKs through Cloud KMS.
pub struct Wrapper {
    config: WrapConfig,
    kms: Mutex<Kms>,
}

/// Why a DEK could not be wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// There are no credentials, or they have expired.
    #[error("there are no valid Google credentials: run `gcloud auth application-default login`")]
    Unauthenticated,
    /// The caller may not encrypt.
    #[error("KMS denied the encryption: ask for the encrypter role on the key")]
    Denied,
    /// The key does not exist, or it is disabled.
    #[error("the KMS key is missing or disabled: check its name")]
    KeyUnusable,
    /// KMS does not take the request.
    #[error("KMS rejected the request: check that the key is for symmetric encryption")]
    Rejected,
    /// A key or an answer arrived damaged.
    #[error("answers of KMS arrived damaged: check the network")]
    Corrupted,
    /// KMS cannot be reached, failed, or is out of quota.
    #[error("KMS is unavailable: check the network, or try again later")]
    Unavailable,
    /// KMS did not answer in time.
    #[error("KMS did not answer in time: check the network, or try again later")]
    Timeout,
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot start: install CA certificates")]
    Setup,
}

impl Wrapper {
    /// Finds credentials and makes the client; KMS is not called yet.
    ///
    /// # Errors
    /// [`WrapError::Unauthenticated`] if there are no credentials, [`WrapError::Setup`] if the client cannot be made.
    pub fn connect(config: WrapConfig) -> BoxFuture<'static, Result<Self, WrapError>> {
        Box::pin(async move {
            let kms = Mutex::new(make_client(&config).await?);
            Ok(Self { config, kms })
        })
    }

    /// Has KMS wrap `dek`.
    ///
    /// # Errors
    /// [`WrapError`], within 20 seconds.
    pub fn wrap<'a>(&'a self, dek: &'a Dek) -> BoxFuture<'a, Result<WrappedDek, WrapError>> {
        Box::pin(async move {
            let wrapped = tokio::time::timeout(OVERALL_TIMEOUT, self.wrap_unbounded(dek)).await;
            wrapped.unwrap_or(Err(WrapError::Timeout))
        })
    }

    async fn wrap_unbounded(&self, dek: &Dek) -> Result<WrappedDek, WrapError> {
        match try_wrap(&self.client(), dek).await {
            // Google's credentials stay dead once they have failed; the user may have logged in since.
            Err(Fault::Unauthenticated) => {
                let revived = make_client(&self.config).await?;
                *self.kms.lock().unwrap_or_else(PoisonError::into_inner) = revived.clone();
                try_wrap(&revived, dek).await.map_err(WrapError::from)
            }
            outcome => outcome.map_err(WrapError::from),
        }
    }

    fn client(&self) -> Kms {
        self.kms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn try_wrap(kms: &Kms, dek: &Dek) -> Result<WrappedDek, Fault> {
    retry(BACKOFF, || kms.encrypt(dek)).await
}

async fn make_client(config: &WrapConfig) -> Result<Kms, WrapError> {
    let credentials = find_credentials(&config.endpoint)?;
    Kms::new(&config.endpoint, credentials, config.key.clone(), ATTEMPT_TIMEOUT)
        .await
        .map_err(|_| WrapError::Setup)
}

fn find_credentials(endpoint: &Endpoint) -> Result<Credentials, WrapError> {
    match endpoint {
        Endpoint::Google => {
            Builder::default().with_scopes([SCOPE]).build().map_err(|_| WrapError::Unauthenticated)
        }
        #[cfg(feature = "sandbox")]
        Endpoint::Sandbox(_) => Ok(google_cloud_auth::credentials::anonymous::Builder::new().build()),
    }
}

impl From<Fault> for WrapError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Rejected => Self::Rejected,
            Fault::Denied => Self::Denied,
            Fault::VersionUnusable | Fault::KeyMissing => Self::KeyUnusable,
            Fault::Unauthenticated => Self::Unauthenticated,
            Fault::Corrupted => Self::Corrupted,
            Fault::QuotaSpent | Fault::Unavailable => Self::Unavailable,
            Fault::Timeout => Self::Timeout,
        }
    }
}
