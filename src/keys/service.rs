//! The key service as the server sees it: a wrapped key in, a DEK out, and whether that works.
//!
//! Must not touch: prompts, HTTP answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use google_cloud_auth::credentials::Credentials as GoogleCredentials;

use super::cache::DekCache;
use super::config::KmsConfig;
use super::credentials::Credentials;
use super::error::{Fault, KeyError};
use super::exchange::Exchange;
use super::kms::Kms;
use super::retry::{Failure, retry};
use crate::protocol::{Dek, WrappedDek};
use crate::telemetry::{Event, emit};

/// No KMS ciphertext: what is sent to see whether KMS would decrypt one.
const PROBE: &[u8] = b"codeseal probe";

/// Unwraps DEKs through Cloud KMS.
pub struct Keys {
    service: Arc<Service>,
    cache: DekCache,
}

/// Whether keys can be unwrapped, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing was tried yet.
    Untried,
    /// The last try got an answer from KMS.
    Ok,
    /// The last try failed; keys that are in the cache still work.
    Failing(KeyError),
}

struct Service {
    kms: Kms,
    credentials: Credentials,
    overall: Duration,
    backoff: Duration,
    status: Mutex<Status>,
}

impl Keys {
    /// Makes the clients. Nothing is called yet, so a service that is down now does not keep the server from
    /// starting.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if this machine lacks what the clients need.
    pub async fn connect(config: KmsConfig) -> Result<Self, KeyError> {
        let timeouts = config.timeouts;
        let exchange = Arc::new(Exchange::new(&config)?);
        let fetch = move || {
            let exchange = exchange.clone();
            async move { exchange.access_token().await }.boxed()
        };
        let credentials = Credentials::new(Box::new(fetch), timeouts.pause_after_failure);
        let google = GoogleCredentials::from(credentials.clone());
        let kms = Kms::new(&config.endpoint, google, config.key, timeouts.kms_attempt)
            .await
            .map_err(|_| KeyError::Setup)?;
        let service = Arc::new(Service {
            kms,
            credentials,
            overall: timeouts.overall,
            backoff: timeouts.backoff,
            status: Mutex::new(Status::Untried),
        });
        Ok(Self { service, cache: DekCache::new(config.cache) })
    }

    /// The DEK that `wrapped` holds, from the cache or from KMS.
    ///
    /// # Errors
    /// [`KeyError`], within the overall timeout.
    pub async fn dek(&self, wrapped: &WrappedDek) -> Result<Arc<Dek>, KeyError> {
        let fetch = || {
            let (service, wrapped) = (self.service.clone(), wrapped.clone());
            async move { service.unwrap(&wrapped).await }
        };
        self.cache.get_or_fetch(wrapped.digest(), fetch).await
    }

    /// Tries the whole way to KMS and back, and updates the status: for readiness, at the start and while the
    /// status is not [`Status::Ok`]. Each call may cost a token exchange and one KMS operation.
    ///
    /// # Errors
    /// [`KeyError`] if a DEK could not be unwrapped now.
    pub async fn probe(&self) -> Result<(), KeyError> {
        let Ok(junk) = WrappedDek::new(PROBE.to_vec()) else { return Err(KeyError::Setup) };
        match self.service.unwrap(&junk).await {
            // KMS looks at the grant and the key's state before it looks at the ciphertext.
            Ok(_) | Err(KeyError::Rejected) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What the last try ended with; nothing is called.
    pub fn status(&self) -> Status {
        *self.service.status()
    }
}

impl Service {
    async fn unwrap(&self, wrapped: &WrappedDek) -> Result<Dek, KeyError> {
        let attempts = retry(self.backoff, || self.attempt(wrapped));
        let outcome = tokio::time::timeout(self.overall, attempts).await.unwrap_or(Err(KeyError::Timeout));
        self.record(outcome.as_ref().err().copied());
        outcome
    }

    async fn attempt(&self, wrapped: &WrappedDek) -> Result<Dek, Failure<KeyError>> {
        // Asked for here, although the client would, to have the reason and not its text.
        self.credentials.bearer().await.map_err(Failure::Final)?;
        self.kms.decrypt(wrapped).await.map_err(|failure| match failure {
            // Revoked, or shorter-lived than it said: worth another try with a new one.
            Failure::Final(Fault::Unauthenticated) => {
                self.credentials.forget();
                Failure::Transient(KeyError::Denied)
            }
            Failure::Final(fault) => Failure::Final(fault.into()),
            Failure::Transient(fault) => Failure::Transient(fault.into()),
        })
    }

    /// Remembers how it went; only a change is worth a line in the log.
    fn record(&self, error: Option<KeyError>) {
        let now = match error {
            // The service did its work.
            None | Some(KeyError::Rejected) => Status::Ok,
            Some(error) => Status::Failing(error),
        };
        let before = std::mem::replace(&mut *self.status(), now);
        match (before, now) {
            (_, Status::Failing(error)) if before != now => emit(Event::KeysLost { reason: error.as_str() }),
            (Status::Failing(_), Status::Ok) => emit(Event::KeysRecovered),
            _ => {}
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
