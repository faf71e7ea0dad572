//! What is known of a server: nothing yet, a session with it, or why there is none.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::client::Held;
use crate::proxy::error::Failure;
use crate::proxy::keystrokes::Predictions;
use crate::proxy::server_api::Features;

/// Intervals of the background work.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a DEK is used.
    pub renew_after: Duration,
    /// How long before a verdict expires the next verification begins.
    pub before_expiry: Duration,
    /// The pause after the first failure; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause between two attempts.
    pub longest_pause: Duration,
    /// How long one attempt may take.
    pub attempt: Duration,
    /// After how long without any request the next one warms the session up.
    pub idle_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            renew_after: Duration::from_secs(55 * 60),
            before_expiry: Duration::from_secs(5 * 60),
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(15),
            attempt: Duration::from_secs(40),
            idle_after: Duration::from_secs(10 * 60),
        }
    }
}

/// What is known of a server.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The first attempt is under way.
    Starting,
    /// There is a session.
    Ready(Arc<Warm>),
    /// There is none.
    Down(Failure),
}

/// A session that requests can use, and what lives as long as its DEK.
#[derive(Debug)]
pub(crate) struct Warm {
    pub(crate) held: Arc<Held>,
    pub(crate) features: Features,
    /// The model's name as the server sends it, without characters that do not belong in a name.
    pub(crate) model: String,
    /// What was predicted under this DEK.
    pub(crate) predictions: Predictions,
    /// When the DEK was wrapped, in seconds since 1970.
    pub(crate) since: u64,
    /// When the verdict expires, in seconds since 1970.
    pub(crate) expires: u64,
}

/// The longest name of a model that is passed on, in characters.
const MAX_MODEL_CHARS: usize = 64;
/// How long before its token expires a verdict is no longer used: a request takes time to arrive.
const MARGIN_SECS: u64 = 30;

impl Warm {
    /// A session that has just been tried.
    pub(crate) fn new(held: Arc<Held>, features: Features, model: String) -> Self {
        let expires =
            held.verdict().map_or(u64::MAX, |verdict| verdict.expires().saturating_sub(MARGIN_SECS));
        let since = held.since().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let model = name(&model);
        Self { held, features, model, predictions: Predictions::default(), since, expires }
    }

    /// Whether requests may still be sealed under it.
    pub(crate) fn is_current(&self) -> bool {
        now() < self.expires
    }

    /// How long until the next session should begin.
    pub(crate) fn renewal(&self, timing: &Timing) -> Duration {
        let age = Duration::from_secs(now().saturating_sub(self.since));
        let left = Duration::from_secs(self.expires.saturating_sub(now()));
        // A token that lives shorter than the usual lead is renewed at half its life.
        let lead = timing.before_expiry.min(left / 2);
        timing.renew_after.saturating_sub(age).min(left - lead)
    }
}

/// A server's name for its model, without what is no part of a name: editors, pages and terminals show it.
fn name(model: &str) -> String {
    let is_plain = |character: &char| character.is_ascii_alphanumeric() || "-_./:@+".contains(*character);
    model.chars().filter(is_plain).take(MAX_MODEL_CHARS).collect()
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_is_a_short_name_whatever_the_server_says() {
        assert_eq!(name("google/codegemma-1.1-2b:q8_0"), "google/codegemma-1.1-2b:q8_0");
        assert_eq!(name("<img src=x onerror=alert(1)>"), "imgsrcxonerroralert1");
        assert_eq!(name("a\u{1b}]8;;b\u{7}\n\u{202e}c"), "a8bc");
        assert_eq!(name(&"x".repeat(1 << 20)).len(), MAX_MODEL_CHARS);
    }
}
