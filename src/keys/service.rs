//! The key service as the server sees it: a wrapped key in, a DEK out, and whether that works.
//!
//! Whether it works is decided by probes of the server's own alone. The outcome of a request says nothing about the next
//! one: anyone can send wrapped keys that KMS refuses, delays or counts against a quota.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use google_cloud_auth::credentials::Credentials as GoogleCredentials;
use tokio::time::Instant;

use super::cache::DekCache;
use super::config::KmsConfig;
use super::credentials::Credentials;
use super::error::{Fault, KeyError, KeyService};
use super::exchange::TokenExchange;
use super::kms::Kms;
use super::retry::{Failure, retry};
use crate::protocol::{Dek, WrappedDek};
use crate::rate::RateLimit;
use crate::telemetry::{Event, emit};

/// No KMS ciphertext: what is sent to see whether KMS would decrypt one.
const PROBE: &[u8] = b"codeseal probe";

/// The least time between two log lines about disabled versions: anyone who holds such a key can send it at any rate.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Unwraps DEKs through Cloud KMS.
pub struct Keys {
    service: Arc<Service>,
    cache: DekCache,
}

/// Whether keys can be unwrapped, as far as the server's own probes know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No probe has ended yet.
    Untried,
    /// The last probe got an answer from KMS.
    Ok,
    /// The last probe failed; keys that are in the cache still work.
    Failing(KeyError),
}

/// What a DEK is unwrapped for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// A request, whose wrapped key comes from outside.
    Request,
    /// Readiness, with bytes of the server's own.
    Probe,
}

struct Service {
    kms: Kms,
    credentials: Credentials,
    overall: Duration,
    backoff: Duration,
    status: Mutex<Status>,
    /// Of calls for requests; probes are not counted. Each call for a key that the cache does not know costs KMS quota, which
    /// all replicas share, and anyone can make up wrapped keys.
    rate: RateLimit,
    disabled_reported: Mutex<Option<Instant>>,
}

impl Keys {
    /// Makes the clients. Nothing is called yet, so a service that is down now does not keep the server from
    /// starting.
    ///
    /// # Errors
    /// [`KeyError::Setup`] if this machine lacks what the clients need.
    pub fn connect(config: KmsConfig) -> BoxFuture<'static, Result<Self, KeyError>> {
        Box::pin(Self::make(config))
    }

    async fn make(config: KmsConfig) -> Result<Self, KeyError> {
        let timeouts = config.timeouts;
        let exchange = Arc::new(TokenExchange::new(&config)?);
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
            rate: RateLimit::new(config.cache.calls_per_minute, config.cache.calls_at_once),
            disabled_reported: Mutex::default(),
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
            async move { service.unwrap(&wrapped, Caller::Request).await }
        };
        let outcome = self.cache.get_or_fetch(wrapped.digest(), fetch).await;
        if matches!(outcome, Err(KeyError::KeyVersionDisabled)) {
            self.service.report_disabled_version();
        }
        outcome
    }

    /// Tries the whole way to KMS and back with bytes of the server's own, and sets the status by the outcome: for
    /// readiness. Each call may cost a token exchange and one KMS operation.
    ///
    /// # Errors
    /// [`KeyError`] if DEKs cannot be unwrapped now.
    pub async fn probe(&self) -> Result<(), KeyError> {
        let Ok(junk) = WrappedDek::new(PROBE.to_vec()) else { return Err(KeyError::Setup) };
        let outcome = match self.service.unwrap(&junk, Caller::Probe).await {
            // KMS looks at the grant and the key before it looks at the ciphertext.
            Ok(_) | Err(KeyError::Rejected) => Ok(()),
            // No version is named in these bytes: it is the key itself that cannot be used.
            Err(KeyError::KeyVersionDisabled) => Err(KeyError::KeyUnusable),
            Err(error) => Err(error),
        };
        self.service.record(outcome.err());
        outcome
    }

    /// What the last probe ended with; nothing is called.
    pub fn status(&self) -> Status {
        *self.service.status()
    }
}

impl Service {
    async fn unwrap(&self, wrapped: &WrappedDek, caller: Caller) -> Result<Dek, KeyError> {
        let attempts = retry(self.backoff, || self.attempt(wrapped, caller));
        let late = KeyError::Timeout(KeyService::Kms);
        tokio::time::timeout(self.overall, attempts).await.unwrap_or(Err(late))
    }

    async fn attempt(&self, wrapped: &WrappedDek, caller: Caller) -> Result<Dek, Failure<KeyError>> {
        // Asked for here, although the client would, to have the reason and not its text.
        self.credentials.bearer().await.map_err(Failure::Final)?;
        if caller == Caller::Request && !self.rate.take() {
            return Err(Failure::Final(KeyError::Overloaded));
        }
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

    /// Remembers how a probe went; only a change is logged.
    fn record(&self, error: Option<KeyError>) {
        let now = match error {
            None => Status::Ok,
            // All replicas share the quota, so another one would not do better, and cached keys are still served. KMS
            // answered this replica, which is as good as a first success.
            Some(KeyError::QuotaSpent(KeyService::Kms)) => match *self.status() {
                Status::Untried => Status::Ok,
                before => before,
            },
            Some(error) => Status::Failing(error),
        };
        let before = std::mem::replace(&mut *self.status(), now);
        match (before, now) {
            (_, Status::Failing(error)) if before != now => emit(Event::KeysLost { reason: error.as_str() }),
            (Status::Failing(_), Status::Ok) => emit(Event::KeysRecovered),
            _ => {}
        }
    }

    /// Tells the operator that requests use a version of the key that is disabled.
    fn report_disabled_version(&self) {
        let mut reported = self.disabled_reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
            *reported = Some(Instant::now());
            emit(Event::KeyVersionDisabled);
        }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
