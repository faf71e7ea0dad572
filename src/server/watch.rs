//! Looks after what a running server depends on: the attestation token, the key service, the model thread.
//!
//! Must not touch: requests.

use std::sync::Arc;
use std::time::Duration;

use super::startup::ServeError;
use super::state::App;
use crate::attestation::{OnTokenExpiry, TokenSource};
use crate::telemetry::{self, Event};

/// Looks every `interval`. Returns only if the server cannot go on.
pub(super) async fn watch(
    app: Arc<App>,
    tokens: TokenSource,
    policy: OnTokenExpiry,
    interval: Duration,
) -> ServeError {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if app.engine_stopped() {
            return ServeError::EngineStopped;
        }
        let lost = tokens.token().await.is_err();
        if app.lifecycle.set_attestation_lost(lost) {
            telemetry::emit(if lost { Event::AttestationLost } else { Event::AttestationRecovered });
        }
        if lost && policy == OnTokenExpiry::Exit {
            return ServeError::TokenExpired;
        }
        // Without a token there is nothing to ask the key service with.
        if !lost {
            app.probe_keys().await;
        }
    }
}
