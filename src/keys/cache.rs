//! The DEK cache: one KMS call for each client session, however many requests it makes at once.
//!
//! Keyed by SHA-256 of the wrapped key. Single-flight: the fetch runs in a task of its own, so that the first
//! request may go away without failing the others. Rejected keys, and keys of disabled versions, are remembered apart, so
//! junk cannot flush a DEK.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::config::CacheLimits;
use super::error::{KeyError, KeyService};
use crate::protocol::Dek;

/// A fetch that panicked.
const FAILED: KeyError = KeyError::Unavailable(KeyService::Kms);

type Digest = [u8; 32];
type DekResult = Result<Arc<Dek>, KeyError>;

/// Unwrapped DEKs. They are wiped when the cache and the last request have dropped them.
pub(super) struct DekCache {
    shared: Arc<Shared>,
    _sweeper: AbortOnDropHandle<()>,
}

struct Shared {
    limits: CacheLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    deks: HashMap<Digest, Entry>,
    /// Counts uses, to find the entry that was not used for longest.
    clock: u64,
    rejected: Rejections,
    disabled: Rejections,
    in_flight: HashMap<Digest, watch::Receiver<Option<DekResult>>>,
}

struct Entry {
    dek: Arc<Dek>,
    expires_at: Instant,
    last_use: u64,
}

#[derive(Default)]
struct Rejections {
    known: HashSet<Digest>,
    /// All live equally long, so the oldest is the first to expire.
    by_age: VecDeque<(Instant, Digest)>,
}

/// A fetch that is under way; it leaves the map however its task ends.
struct InFlight {
    shared: Arc<Shared>,
    key: Digest,
    done: watch::Sender<Option<DekResult>>,
}

impl DekCache {
    /// An empty cache; must be made inside a tokio runtime, where it sweeps out what has expired.
    pub(super) fn new(limits: CacheLimits) -> Self {
        let shared = Arc::new(Shared { limits, state: Mutex::default() });
        let swept = shared.clone();
        let pause = (limits.ttl / 10).max(Duration::from_millis(100));
        // Without it an idle server would keep the last session's keys for ever.
        let sweeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                swept.state().sweep(Instant::now());
            }
        });
        Self { shared, _sweeper: AbortOnDropHandle::new(sweeper) }
    }

    /// The DEK of `key`: from the cache, from a fetch that is under way, or from `fetch`.
    ///
    /// # Errors
    /// The fetch's, or [`KeyError::Overloaded`] if too many are under way.
    pub(super) async fn get_or_fetch<F>(&self, key: Digest, fetch: impl FnOnce() -> F) -> DekResult
    where
        F: Future<Output = Result<Dek, KeyError>> + Send + 'static,
    {
        let mut result = match self.join(key) {
            Joined::Finished(result) => return result,
            Joined::Waiting(result) => result,
            Joined::Leading(leader, result) => {
                let fetch = fetch();
                tokio::spawn(async move { leader.finish(fetch.await.map(Arc::new)) });
                result
            }
        };
        let finished = result.wait_for(Option::is_some).await;
        // The task ends without a result only if it panics or the runtime ends.
        finished.ok().and_then(|result| result.clone()).unwrap_or(Err(FAILED))
    }

    fn join(&self, key: Digest) -> Joined {
        let mut state = self.shared.state();
        let now = Instant::now();
        if let Some(dek) = state.use_dek(&key, now) {
            return Joined::Finished(Ok(dek));
        }
        if state.rejected.contains(&key, now) {
            return Joined::Finished(Err(KeyError::Rejected));
        }
        if state.disabled.contains(&key, now) {
            return Joined::Finished(Err(KeyError::KeyVersionDisabled));
        }
        if let Some(result) = state.in_flight.get(&key) {
            return Joined::Waiting(result.clone());
        }
        if state.in_flight.len() >= self.shared.limits.in_flight {
            return Joined::Finished(Err(KeyError::Overloaded));
        }
        let (done, result) = watch::channel(None);
        state.in_flight.insert(key, result.clone());
        Joined::Leading(InFlight { shared: self.shared.clone(), key, done }, result)
    }
}

enum Joined {
    Finished(DekResult),
    Waiting(watch::Receiver<Option<DekResult>>),
    Leading(InFlight, watch::Receiver<Option<DekResult>>),
}

impl InFlight {
    fn finish(self, result: DekResult) {
        let limits = &self.shared.limits;
        let mut state = self.shared.state();
        match &result {
            Ok(dek) => state.insert(self.key, dek.clone(), limits),
            Err(KeyError::Rejected) => state.rejected.insert(self.key, limits.rejected_ttl, limits.rejected),
            Err(KeyError::KeyVersionDisabled) => {
                state.disabled.insert(self.key, limits.disabled_ttl, limits.rejected);
            }
            // Any other failure can be over in the next moment.
            Err(_) => {}
        }
        state.in_flight.remove(&self.key);
        drop(state);
        self.done.send_replace(Some(result));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // After a result there is nothing to remove, unless the next fetch of this key has started already.
        let mut state = self.shared.state();
        if state.in_flight.get(&self.key).is_some_and(|fetch| fetch.same_channel(&self.done.subscribe())) {
            state.in_flight.remove(&self.key);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn use_dek(&mut self, key: &Digest, now: Instant) -> Option<Arc<Dek>> {
        self.clock += 1;
        let entry = self.deks.get_mut(key).filter(|entry| now < entry.expires_at)?;
        entry.last_use = self.clock;
        Some(entry.dek.clone())
    }

    fn insert(&mut self, key: Digest, dek: Arc<Dek>, limits: &CacheLimits) {
        let now = Instant::now();
        self.sweep(now);
        if self.deks.len() >= limits.deks {
            let idlest = self.deks.iter().min_by_key(|(_, entry)| entry.last_use).map(|(key, _)| *key);
            idlest.and_then(|key| self.deks.remove(&key));
        }
        self.clock += 1;
        self.deks.insert(key, Entry { dek, expires_at: now + limits.ttl, last_use: self.clock });
    }

    fn sweep(&mut self, now: Instant) {
        self.deks.retain(|_, entry| now < entry.expires_at);
        self.rejected.sweep(now);
        self.disabled.sweep(now);
    }
}

impl Rejections {
    fn contains(&mut self, key: &Digest, now: Instant) -> bool {
        self.sweep(now);
        self.known.contains(key)
    }

    fn insert(&mut self, key: Digest, ttl: Duration, most: usize) {
        if self.known.insert(key) {
            self.by_age.push_back((Instant::now() + ttl, key));
        }
        while self.by_age.len() > most {
            self.drop_oldest();
        }
    }

    fn sweep(&mut self, now: Instant) {
        while self.by_age.front().is_some_and(|(expires_at, _)| *expires_at <= now) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.by_age.pop_front() {
            self.known.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;

    const LIMITS: CacheLimits = CacheLimits {
        ttl: Duration::from_secs(600),
        deks: 2,
        rejected_ttl: Duration::from_secs(30),
        disabled_ttl: Duration::from_secs(5),
        rejected: 2,
        in_flight: 2,
        calls_per_minute: 1,
        calls_at_once: 1,
    };

    /// A cache whose fetches take a second, counted.
    struct Fixture {
        cache: DekCache,
        fetches: Arc<AtomicUsize>,
    }

    impl Fixture {
        fn new() -> Self {
            Self { cache: DekCache::new(LIMITS), fetches: Arc::default() }
        }

        async fn get(&self, key: u8, result: Result<(), KeyError>) -> DekResult {
            let fetches = self.fetches.clone();
            self.cache
                .get_or_fetch([key; 32], move || async move {
                    fetches.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    result.map(|()| Dek::generate().unwrap())
                })
                .await
        }

        fn fetches(&self) -> usize {
            self.fetches.load(Ordering::Relaxed)
        }

        fn held(&self) -> (usize, usize, usize) {
            let state = self.cache.shared.state();
            (state.deks.len(), state.rejected.known.len(), state.in_flight.len())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_cost_one_fetch() {
        let fixture = Fixture::new();
        let outcomes = join_all((0..200).map(|_| fixture.get(1, Ok(())))).await;
        let first = outcomes[0].as_ref().unwrap().namespace();
        assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().namespace() == first));
        assert_eq!(fixture.fetches(), 1);
        fixture.get(1, Ok(())).await.unwrap();
        assert_eq!((fixture.fetches(), fixture.held()), (1, (1, 0, 0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_fails_no_other() {
        let fixture = Fixture::new();
        let leader = fixture.get(1, Ok(()));
        assert!(tokio::time::timeout(Duration::from_millis(500), leader).await.is_err());
        fixture.get(1, Ok(())).await.unwrap();
        assert_eq!(fixture.fetches(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dek_is_gone_after_its_time_even_from_an_idle_cache() {
        let fixture = Fixture::new();
        let dek = Arc::downgrade(&fixture.get(1, Ok(())).await.unwrap());
        tokio::time::sleep(Duration::from_secs(590)).await;
        assert_eq!(dek.strong_count(), 1);
        tokio::time::sleep(Duration::from_secs(80)).await;
        assert_eq!(dek.strong_count(), 0);
        fixture.get(1, Ok(())).await.unwrap();
        assert_eq!(fixture.fetches(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_dek_that_was_not_used_for_longest_makes_room() {
        let fixture = Fixture::new();
        for key in [1, 2, 1, 3] {
            fixture.get(key, Ok(())).await.unwrap();
        }
        assert_eq!((fixture.fetches(), fixture.held()), (3, (2, 0, 0)));
        fixture.get(1, Ok(())).await.unwrap();
        assert_eq!(fixture.fetches(), 3);
        fixture.get(2, Ok(())).await.unwrap();
        assert_eq!(fixture.fetches(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rejection_is_remembered_for_a_while() {
        let fixture = Fixture::new();
        for _ in 0..3 {
            assert_eq!(fixture.get(1, Err(KeyError::Rejected)).await.unwrap_err(), KeyError::Rejected);
        }
        assert_eq!(fixture.fetches(), 1);
        tokio::time::sleep(Duration::from_secs(30)).await;
        fixture.get(1, Ok(())).await.unwrap();
        assert_eq!(fixture.fetches(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_disabled_version_is_asked_about_again_soon_and_flushes_no_dek() {
        let fixture = Fixture::new();
        fixture.get(0, Ok(())).await.unwrap();
        let disabled = KeyError::KeyVersionDisabled;
        for _ in 0..3 {
            assert_eq!(fixture.get(1, Err(disabled)).await.unwrap_err(), disabled);
        }
        assert_eq!(fixture.fetches(), 2);
        for key in 2..=50 {
            assert_eq!(fixture.get(key, Err(disabled)).await.unwrap_err(), disabled);
        }
        assert_eq!(fixture.held(), (1, 0, 0));
        assert_eq!(fixture.cache.shared.state().disabled.known.len(), 2);
        tokio::time::sleep(LIMITS.disabled_ttl).await;
        fixture.get(1, Ok(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn other_failures_are_shared_but_not_remembered() {
        let fixture = Fixture::new();
        let down = || fixture.get(1, Err(FAILED));
        for outcome in join_all([down(), down()]).await {
            assert_eq!(outcome.unwrap_err(), FAILED);
        }
        assert_eq!(fixture.fetches(), 1);
        fixture.get(1, Ok(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn junk_flushes_no_dek() {
        let fixture = Fixture::new();
        fixture.get(0, Ok(())).await.unwrap();
        for key in 1..=50 {
            assert_eq!(fixture.get(key, Err(KeyError::Rejected)).await.unwrap_err(), KeyError::Rejected);
        }
        assert_eq!(fixture.held(), (1, 2, 0));
        fixture.get(0, Err(KeyError::Rejected)).await.unwrap();
        assert_eq!(fixture.fetches(), 51);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_fetches_at_once_are_refused() {
        let fixture = Fixture::new();
        let (one, two, three) =
            tokio::join!(fixture.get(1, Ok(())), fixture.get(2, Ok(())), fixture.get(3, Ok(())));
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(three.unwrap_err(), KeyError::Overloaded);
        fixture.get(3, Ok(())).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_that_panics_fails_its_callers_only() {
        let fixture = Fixture::new();
        let outcome = fixture.cache.get_or_fetch([1; 32], || async { panic!("on purpose") }).await;
        assert_eq!(outcome.unwrap_err(), FAILED);
        fixture.get(1, Ok(())).await.unwrap();
        assert_eq!(fixture.held(), (1, 0, 0));
    }
}
