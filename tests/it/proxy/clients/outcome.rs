//! What every client must come to in every scene.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::scenes::{Scene, Scenes};

/// A report of a driver.
#[derive(Debug, Deserialize)]
pub(super) struct Outcome {
    pub(super) client: String,
    pub(super) scene: String,
    /// `whole` and `stream`, or what a driver calls its further requests.
    pub(super) form: String,
    /// The text that the client was given.
    #[serde(default)]
    pub(super) shown: String,
    /// What it raised.
    #[serde(default)]
    pub(super) error: Option<Problem>,
    /// Requests that the proxies had for it.
    pub(super) requests: u64,
}

/// What a client library raises, or what an editor shows.
#[derive(Debug, Deserialize)]
pub(super) struct Problem {
    /// Its class.
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) status: Option<u16>,
    #[serde(default)]
    pub(super) code: Option<Value>,
    #[serde(default)]
    pub(super) message: String,
}

/// What differs from client to client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub(super) name: &'static str,
    /// The forms of a request that it has.
    pub(super) forms: &'static [&'static str],
    /// Requests that it sends to a server that is busy before it gives up.
    pub(super) tries_when_busy: u64,
    /// Whether the error of a stream that breaks has the proxy's sentence in it: some throw it away.
    pub(super) tells_of_break: bool,
}

pub(super) const BOTH: &[&str] = &["whole", "stream"];

/// The text before the cursor and behind it that drivers send.
pub(super) fn hole(client: &str, form: &str) -> Value {
    json!({
        "prompt": format!("# {client}, {form}\ndef add(a, b):\n    return "),
        "suffix": "\n\nprint(add(1, 2))\n", "max_tokens": 12,
    })
}

/// The reports in their form.
pub(super) fn read(reports: Vec<Value>) -> Vec<Outcome> {
    reports.into_iter().map(|report| serde_json::from_value(report).unwrap()).collect()
}

/// Checks what `client` has come to in each scene.
pub(super) async fn check(scenes: &Arc<Scenes>, outcomes: &[Outcome], client: Client) {
    for scene in Scene::ALL {
        for form in client.forms {
            if scene == Scene::Cut && *form != "stream" {
                continue;
            }
            let outcome = find(outcomes, client.name, scene.name(), form);
            check_one(scenes, outcome, client).await;
        }
    }
    for form in client.forms {
        // That the server stopped is what the driver has waited for.
        let outcome = find(outcomes, client.name, "cancelled", form);
        assert!(
            outcome.error.is_some(),
            "a request that was cancelled ends as if it were whole: {outcome:?}"
        );
    }
}

async fn check_one(scenes: &Arc<Scenes>, outcome: &Outcome, client: Client) {
    let scene = Scene::named(&outcome.scene);
    let sentence = match scene {
        Scene::Good | Scene::Token => {
            let expected = scenes.expected(hole(&outcome.client, &outcome.form)).await;
            assert!(!expected.is_empty());
            assert!(outcome.error.is_none() && outcome.shown == expected, "{expected:?}: {outcome:?}");
            assert_eq!(outcome.requests, 1, "{outcome:?}");
            return;
        }
        Scene::Down => "codeseal: not connected: ",
        Scene::NotVerified => "runs an image that the policy does not name",
        Scene::Busy => "codeseal: the server is busy: try again in a second.",
        Scene::Cut => "codeseal: the answer is not authentic: ",
    };
    let Some(problem) = &outcome.error else { panic!("nothing is raised: {outcome:?}") };
    let has_sentence =
        problem.message.contains(sentence) && problem.message.contains("See http://127.0.0.1:");
    assert_eq!(has_sentence, scene != Scene::Cut || client.tells_of_break, "{outcome:?}");
    assert_eq!(outcome.shown.is_empty(), scene != Scene::Cut, "{outcome:?}");
    let tries = if scene == Scene::Busy { client.tries_when_busy } else { 1 };
    assert_eq!(outcome.requests, tries, "{outcome:?}");
}

/// The one report of it.
pub(super) fn find<'a>(outcomes: &'a [Outcome], client: &str, scene: &str, form: &str) -> &'a Outcome {
    let is_it =
        |outcome: &&Outcome| outcome.client == client && outcome.scene == scene && outcome.form == form;
    let mut found = outcomes.iter().filter(is_it);
    let outcome = found.next().unwrap_or_else(|| panic!("no report of {client}, {scene}, {form}"));
    assert!(found.next().is_none(), "two reports of {client}, {scene}, {form}");
    outcome
}
