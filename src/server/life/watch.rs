//! Watches what a running server depends on: the attestation token, the key service, the model thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::failure::ServeError;
use crate::attestation::{AttestationError, OnTokenExpiry, TokenSource};
use crate::server::state::App;
use crate::telemetry::{self, Event};

/// For how long after its start a failing launcher does not end the server.
const GRACE: Duration = Duration::from_secs(60);

/// Checks every `interval`. Returns only if the server cannot go on.
pub(crate) async fn watch(
    app: Arc<App>,
    tokens: TokenSource,
    policy: OnTokenExpiry,
    interval: Duration,
) -> ServeError {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut good_until = Instant::now() + GRACE;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            error = engine_stopped(&app) => return error,
        }
        let lost = match tokens.token_and_life().await {
            Ok((_, remaining)) => {
                good_until = Instant::now() + remaining;
                None
            }
            Err(error) => Some(error),
        };
        if app.lifecycle.set_attestation_lost(lost.is_some()) {
            telemetry::emit(lost.map_or(Event::AttestationRecovered, |error| Event::AttestationLost {
                reason: error.as_str(),
            }));
        }
        match lost {
            Some(error) if policy == OnTokenExpiry::Exit && has_expired(error, good_until) => {
                return ServeError::TokenExpired;
            }
            Some(_) => {}
            // Without a token there is nothing to ask the key service with.
            None => app.probe_keys().await,
        }
    }
}

/// Returns when the model thread has ended. Before the engine is loaded it never returns: the next tick checks again.
async fn engine_stopped(app: &App) -> ServeError {
    match app.engine() {
        None => std::future::pending().await,
        Some(engine) => {
            engine.stopped().await;
            engine.failure().map_or(ServeError::EngineStopped, ServeError::DeviceFailed)
        }
    }
}

/// An exit is a reboot of the VM: a launcher that fails for a moment, or a file that is not there for one, is no
/// reason for it while the last token that was seen is good.
fn has_expired(error: AttestationError, good_until: Instant) -> bool {
    error == AttestationError::Expired || Instant::now() >= good_until
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;
    use crate::attestation::Clock;
    use crate::server::answer::shaping::Shaping;
    use crate::server::config::RequestLimits;

    const INTERVAL: Duration = Duration::from_secs(10);

    /// A launcher's directory, and a clock that goes with tokio's time.
    struct World {
        dir: tempfile::TempDir,
        clock: Clock,
        app: Arc<App>,
    }

    impl World {
        fn new(policy: OnTokenExpiry) -> Self {
            let limits = RequestLimits {
                max_new_tokens: 1,
                max_body_bytes: 1,
                max_connections: 1,
                max_replay_entries: 1,
                max_attestations_per_minute: 1,
                header_timeout: INTERVAL,
                body_timeout: INTERVAL,
                write_timeout: INTERVAL,
                request_timeout: INTERVAL,
            };
            let app = App::new(limits, 1, policy, Shaping::Off, None).unwrap();
            Self { dir: tempfile::tempdir().unwrap(), clock: Clock::tokio(), app }
        }

        fn file(&self) -> PathBuf {
            self.dir.path().join("token")
        }

        /// Puts a token into the file that is good for `secs` seconds from now.
        fn write_token(&self, secs: u64) {
            let now = self.clock.since_1970().as_secs();
            let claims = format!(r#"{{"iat":{now},"exp":{}}}"#, now + secs);
            let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
            let token = format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(&claims), part("x"));
            std::fs::write(self.file(), token).unwrap();
        }

        /// Watches for `secs` seconds at the most.
        async fn watch(&self, policy: OnTokenExpiry, secs: u64) -> Option<ServeError> {
            let tokens = TokenSource::with_clock(self.file(), None, self.clock);
            let watching = watch(Arc::clone(&self.app), tokens, policy, INTERVAL);
            tokio::time::timeout(Duration::from_secs(secs), watching).await.ok()
        }

        fn is_lost(&self) -> bool {
            self.app.lifecycle.attestation_lost()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_token_is_waited_for_and_then_all_is_well_again() {
        for policy in [OnTokenExpiry::Ignore, OnTokenExpiry::Wait] {
            let world = World::new(policy);
            world.write_token(3600);
            assert!(world.watch(policy, 3590).await.is_none());
            assert!(!world.is_lost());
            assert!(world.watch(policy, 30).await.is_none());
            assert!(world.is_lost());
            world.write_token(3600);
            assert!(world.watch(policy, 30).await.is_none());
            assert!(!world.is_lost());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_process_ends_with_the_token_if_that_is_the_policy_and_not_before() {
        let world = World::new(OnTokenExpiry::Exit);
        world.write_token(3600);
        let began = Instant::now();
        let end = world.watch(OnTokenExpiry::Exit, 7200).await.unwrap();
        assert_eq!(end.exit_code(), 75);
        let lived = began.elapsed().as_secs();
        assert!((3590..=3610).contains(&lived), "{lived} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_vanishes_ends_the_process_only_when_its_token_would_have_expired() {
        let world = World::new(OnTokenExpiry::Exit);
        world.write_token(1800);
        let began = Instant::now();
        let vanishing = async {
            tokio::time::sleep(Duration::from_secs(600)).await;
            std::fs::remove_file(world.file()).unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            end = world.watch(OnTokenExpiry::Exit, 7200) => assert_eq!(end.unwrap().exit_code(), 75),
            () = vanishing => {}
        }
        assert!(world.is_lost());
        let lived = began.elapsed().as_secs();
        assert!((1790..=1820).contains(&lived), "{lived} s");
    }
}
