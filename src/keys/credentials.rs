//! When an access token is fetched: on demand, once for all waiting callers (single-flight), ahead of its expiry, and with a
//! pause after a failure.
//!
//! There is no state that a failure could leave behind but a short pause: the next call after it tries again, so
//! the server heals by itself when the launcher, STS or IAM does.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use http::{Extensions, HeaderMap, HeaderValue, header};
use tokio::time::Instant;

use super::error::KeyError;
use super::exchange::AccessToken;

/// A token is replaced this long before it expires, or after three quarters of a short life.
const REFRESH_AHEAD: Duration = Duration::from_secs(240);

/// A token is not used in its last seconds, or in the last tenth of a short life: it has to travel yet.
const EXPIRY_MARGIN: Duration = Duration::from_secs(10);

/// Fetches a new token; what can be healed by repeating has been repeated, and it ends within a timeout.
pub(super) type Fetch = Box<dyn Fn() -> BoxFuture<'static, Result<AccessToken, KeyError>> + Send + Sync>;

/// Access tokens for KMS. A clone is another handle on the same ones.
#[derive(Clone)]
pub(super) struct Credentials(Arc<Shared>);

struct Shared {
    fetch: Fetch,
    pause_after_failure: Duration,
    state: Mutex<State>,
    /// Held during an exchange, which all waiting callers share (single-flight).
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct State {
    current: Option<Current>,
    failure: Option<(KeyError, Instant)>,
}

struct Current {
    header: HeaderValue,
    since: Instant,
    refresh_at: Instant,
    expires_at: Instant,
}

/// What the state says about a token now.
enum Lookup {
    Fresh(HeaderValue),
    /// Still good, but it is time for the next one.
    Aging(HeaderValue),
    /// There is none, and the pause after a failure is not over.
    Paused(KeyError),
    None,
}

impl Credentials {
    /// After a failure, `fetch` is not called for `pause_after_failure`: callers get the same error.
    pub(super) fn new(fetch: Fetch, pause_after_failure: Duration) -> Self {
        Self(Arc::new(Shared { fetch, pause_after_failure, state: Mutex::default(), turn: Arc::default() }))
    }

    /// The value of an `authorization` header that is valid now.
    ///
    /// # Errors
    /// [`KeyError`] if there is none.
    pub(super) async fn bearer(&self) -> Result<HeaderValue, KeyError> {
        match self.0.lookup() {
            Lookup::Fresh(header) => return Ok(header),
            Lookup::Aging(header) => {
                self.refresh_in_background();
                return Ok(header);
            }
            Lookup::Paused(error) => return Err(error),
            Lookup::None => {}
        }
        let _turn = self.0.turn.lock().await;
        // The caller that held the lock before may have fetched one, or have just failed.
        match self.0.lookup() {
            Lookup::Fresh(header) | Lookup::Aging(header) => Ok(header),
            Lookup::Paused(error) => Err(error),
            Lookup::None => self.0.renew().await,
        }
    }

    /// Drops the token that KMS did not accept, unless it was replaced just now: then that one is to be tried.
    pub(super) fn forget(&self) {
        let mut state = self.0.state();
        let old = |current: &Current| current.since.elapsed() >= self.0.pause_after_failure;
        if state.current.as_ref().is_some_and(old) {
            state.current = None;
        }
    }

    fn refresh_in_background(&self) {
        let Ok(turn) = self.0.turn.clone().try_lock_owned() else { return };
        if self.0.state().paused(self.0.pause_after_failure).is_some() {
            return;
        }
        let shared = self.0.clone();
        tokio::spawn(async move {
            let _turn = turn;
            // A failure is remembered, and the next caller with it tries again.
            drop(shared.renew().await);
        });
    }
}

impl Shared {
    async fn renew(&self) -> Result<HeaderValue, KeyError> {
        let outcome = (self.fetch)().await;
        let mut state = self.state();
        match outcome {
            Ok(token) => {
                let header = token.header.clone();
                *state = State { current: Some(Current::new(token)), failure: None };
                Ok(header)
            }
            Err(error) => {
                state.failure = Some((error, Instant::now()));
                Err(error)
            }
        }
    }

    fn lookup(&self) -> Lookup {
        let (state, now) = (self.state(), Instant::now());
        match &state.current {
            Some(current) if now < current.refresh_at => Lookup::Fresh(current.header.clone()),
            Some(current) if now < current.expires_at => Lookup::Aging(current.header.clone()),
            _ => state.paused(self.pause_after_failure).map_or(Lookup::None, Lookup::Paused),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn paused(&self, pause: Duration) -> Option<KeyError> {
        self.failure.filter(|(_, at)| at.elapsed() < pause).map(|(error, _)| error)
    }
}

impl Current {
    fn new(AccessToken { header, lifetime, since }: AccessToken) -> Self {
        let refresh_at = since + (lifetime - REFRESH_AHEAD.min(lifetime / 4));
        let expires_at = since + (lifetime - EXPIRY_MARGIN.min(lifetime / 10));
        Self { header, since, refresh_at, expires_at }
    }
}

impl CredentialsProvider for Credentials {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        // Never transient for Google's client: what can be healed by repeating has been repeated.
        let bearer = self.bearer().await.map_err(|error| CredentialsError::from_source(false, error))?;
        let data = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
        Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;

    use super::*;

    const DOWN: KeyError = KeyError::Unavailable(super::super::error::KeyService::Sts);
    const PAUSE: Duration = Duration::from_secs(1);

    /// Tokens `t1`, `t2`, … that take a second and live for an hour, until `fault` is set.
    #[derive(Clone, Default)]
    struct Source {
        fetches: Arc<AtomicUsize>,
        fault: Arc<Mutex<Option<KeyError>>>,
    }

    impl Source {
        fn credentials(&self) -> Credentials {
            let source = self.clone();
            let fetch = move || {
                let (number, fault) =
                    (source.fetches.fetch_add(1, Ordering::Relaxed) + 1, *source.fault.lock().unwrap());
                async move {
                    let since = Instant::now();
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let header = HeaderValue::from_str(&format!("t{number}")).unwrap();
                    fault.map_or(Ok(AccessToken { header, lifetime: Duration::from_secs(3600), since }), Err)
                }
                .boxed()
            };
            Credentials::new(Box::new(fetch), PAUSE)
        }

        fn fail(&self, fault: Option<KeyError>) {
            *self.fault.lock().unwrap() = fault;
        }

        fn fetches(&self) -> usize {
            self.fetches.load(Ordering::Relaxed)
        }
    }

    async fn sleep(secs: u64) {
        tokio::time::sleep(Duration::from_secs(secs)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_callers_share_one_exchange() {
        let source = Source::default();
        let credentials = source.credentials();
        for bearer in join_all((0..50).map(|_| credentials.bearer())).await {
            assert_eq!(bearer.unwrap(), "t1");
        }
        assert_eq!(source.fetches(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_stops_waiting_leaves_the_turn_to_the_next() {
        let credentials = Source::default().credentials();
        assert!(tokio::time::timeout(Duration::from_millis(500), credentials.bearer()).await.is_err());
        assert_eq!(credentials.bearer().await.unwrap(), "t2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_the_answer_for_a_moment_and_then_it_heals() {
        let source = Source::default();
        let credentials = source.credentials();
        source.fail(Some(KeyError::ExchangeRefused));
        for bearer in join_all((0..50).map(|_| credentials.bearer())).await {
            assert_eq!(bearer.unwrap_err(), KeyError::ExchangeRefused);
        }
        assert_eq!(source.fetches(), 1);
        source.fail(None);
        sleep(1).await;
        assert_eq!(credentials.bearer().await.unwrap(), "t2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_ahead_of_its_expiry_without_waiting() {
        let credentials = Source::default().credentials();
        credentials.bearer().await.unwrap();
        sleep(3600 - 240).await;
        let asked = Instant::now();
        assert_eq!(credentials.bearer().await.unwrap(), "t1");
        assert_eq!(asked.elapsed(), Duration::ZERO);
        sleep(2).await;
        assert_eq!(credentials.bearer().await.unwrap(), "t2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_replacement_costs_nothing_while_the_old_token_is_good() {
        let source = Source::default();
        let credentials = source.credentials();
        credentials.bearer().await.unwrap();
        source.fail(Some(DOWN));
        sleep(3600 - 240).await;
        for _ in 0..3 {
            assert_eq!(credentials.bearer().await.unwrap(), "t1");
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        assert_eq!(source.fetches(), 2);
        sleep(240).await;
        assert_eq!(credentials.bearer().await.unwrap_err(), DOWN);
        source.fail(None);
        sleep(1).await;
        assert!(credentials.bearer().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_not_accepted_is_dropped_unless_it_is_new() {
        let credentials = Source::default().credentials();
        credentials.bearer().await.unwrap();
        sleep(1).await;
        credentials.forget();
        assert_eq!(credentials.bearer().await.unwrap(), "t2");
        credentials.forget();
        assert_eq!(credentials.bearer().await.unwrap(), "t3", "it was asked for a second ago");
    }

    #[tokio::test]
    async fn the_header_that_goes_out_is_the_token() {
        let fetch = || {
            let (lifetime, since) = (Duration::from_secs(60), Instant::now());
            let header = HeaderValue::from_static("Bearer t");
            std::future::ready(Ok(AccessToken { header, lifetime, since })).boxed()
        };
        let credentials = Credentials::new(Box::new(fetch), PAUSE);
        let headers = credentials.headers(Extensions::new()).await.unwrap();
        let CacheableResource::New { data, .. } = headers else { panic!("headers are never cached") };
        assert_eq!(data[header::AUTHORIZATION], "Bearer t");
        assert_eq!(format!("{credentials:?}"), "Credentials([redacted])");
    }
}
