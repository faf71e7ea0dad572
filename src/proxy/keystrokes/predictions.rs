//! Predicted text that is used again while it is typed. It lives as long as the DEK that it came under.
//!
//! Only greedy answers are kept: for those a new request would give the same text.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::tail;
use crate::protocol::openai::FinishReason;
use crate::proxy::dialect::{Hole, Options};
use crate::secret::Secret;

/// How many predictions are kept.
const MAX_ENTRIES: usize = 250;
/// How much of the text before the cursor must agree, in bytes.
const AGREEING_BYTES: usize = 2048;

/// The predictions of one session.
#[derive(Debug, Default)]
pub(crate) struct Predictions(Mutex<VecDeque<Entry>>);

/// Everything of a request but the text before the cursor that an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    /// The end of the text before the cursor.
    before: Secret<String>,
    /// Whether that is all of it.
    all: bool,
    text: Secret<String>,
    finish: FinishReason,
}

impl Fingerprint {
    /// Of a request for a hole; `None` if its answer is random or has more to it than a text.
    pub(crate) fn of(hole: &Hole, options: &Options) -> Option<Self> {
        let greedy = options.temperature.unwrap_or(0.0) == 0.0;
        let reads_only = options.max_tokens == Some(0);
        if !greedy || reads_only || options.n.unwrap_or(1) > 1 || options.logprobs.is_some() {
            return None;
        }
        let mut hash = Sha256::new();
        let mut field = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        field(hole.suffix.expose());
        hole.markers.iter().for_each(|marker| field(marker));
        field("stop");
        options.stop.iter().for_each(|stop| field(stop.expose()));
        field("context");
        hole.context.iter().for_each(|file| field(file.text.expose()));
        hash.update(options.repetition_penalty.unwrap_or(1.0).to_le_bytes());
        hash.update(options.max_tokens.map_or(u64::MAX, |tokens| tokens as u64).to_le_bytes());
        Some(Self(hash.finalize().into()))
    }
}

impl Predictions {
    /// What is left of a prediction, if the text before the cursor is what it was made for and the beginning of it.
    pub(crate) fn find(
        &self,
        fingerprint: Fingerprint,
        before: &str,
    ) -> Option<(Secret<String>, FinishReason)> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let matching = entries.iter().rev().filter(|entry| entry.fingerprint == fingerprint);
        matching.into_iter().find_map(|entry| {
            let rest = entry.rest(before)?;
            (!rest.trim().is_empty()).then(|| (Secret::new(rest.to_owned()), entry.finish))
        })
    }

    /// Whether the text before the cursor ends with a whole prediction, as after an accept.
    pub(crate) fn was_accepted(&self, fingerprint: Fingerprint, before: &str) -> bool {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().any(|entry| entry.fingerprint == fingerprint && entry.ends(before))
    }

    /// Keeps a prediction.
    pub(crate) fn keep(&self, fingerprint: Fingerprint, before: &str, text: &str, finish: FinishReason) {
        if text.trim().is_empty() {
            return;
        }
        let end = tail(before, AGREEING_BYTES);
        let entry = Entry {
            fingerprint,
            all: end.len() == before.len(),
            before: Secret::new(end.to_owned()),
            text: Secret::new(text.to_owned()),
            finish,
        };
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|old| old.fingerprint != fingerprint || old.before.expose() != entry.before.expose());
        if entries.len() >= MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(entry);
    }
}

impl Entry {
    /// What is left of the text if `before` is what it was made for, and then a beginning of it.
    fn rest(&self, before: &str) -> Option<&str> {
        let text = self.text.expose();
        let cuts = text.char_indices().map(|(at, _)| at);
        cuts.into_iter().find_map(|typed| {
            let (typed, rest) = text.split_at_checked(typed)?;
            let base = before.strip_suffix(typed)?;
            self.follows(base).then_some(rest)
        })
    }

    /// Whether `before` is what it was made for, and then all of the text.
    fn ends(&self, before: &str) -> bool {
        before.strip_suffix(self.text.expose().as_str()).is_some_and(|base| self.follows(base))
    }

    /// Whether it was made for the text before the cursor `base`.
    fn follows(&self, base: &str) -> bool {
        let made_for = self.before.expose().as_str();
        if self.all { base == made_for } else { base.ends_with(made_for) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::dialect;

    fn hole(suffix: &str) -> Hole {
        let body = serde_json::json!({ "input_prefix": "x", "input_suffix": suffix }).to_string();
        let ask = dialect::read(dialect::Endpoint::Infill, body.as_bytes()).unwrap();
        let dialect::Task::Hole(hole) = ask.task else { panic!("a hole") };
        hole
    }

    fn found(predictions: &Predictions, before: &str, suffix: &str) -> Option<String> {
        let fingerprint = Fingerprint::of(&hole(suffix), &Options::default()).unwrap();
        predictions.find(fingerprint, before).map(|(rest, _)| rest.expose().clone())
    }

    #[test]
    fn what_was_predicted_is_there_while_it_is_typed() {
        let predictions = Predictions::default();
        let fingerprint = Fingerprint::of(&hole("\n"), &Options::default()).unwrap();
        predictions.keep(fingerprint, "def f(a):\n", "    return 가 + a", FinishReason::Stop);
        let rest = |before: &str| found(&predictions, before, "\n");
        assert_eq!(rest("def f(a):\n").as_deref(), Some("    return 가 + a"));
        assert_eq!(rest("def f(a):\n    return 가").as_deref(), Some(" + a"));
        // All typed, another text typed, another text in front.
        assert_eq!(rest("def f(a):\n    return 가 + a"), None);
        assert_eq!(rest("def f(a):\n    x"), None);
        assert_eq!(rest("x\ndef f(a):\n"), None);
        assert_eq!(found(&predictions, "def f(a):\n", "other"), None);
        let accepted = |before: &str| predictions.was_accepted(fingerprint, before);
        assert!(accepted("def f(a):\n    return 가 + a"));
        assert!(!accepted("def f(a):\n    return 가") && !accepted("x\ndef f(a):\n    return 가 + a"));
    }

    #[test]
    fn random_answers_are_not_kept() {
        let options = Options { temperature: Some(0.7), ..Options::default() };
        assert_eq!(Fingerprint::of(&hole(""), &options), None);
        let options = Options { n: Some(2), ..Options::default() };
        assert_eq!(Fingerprint::of(&hole(""), &options), None);
    }

    #[test]
    fn there_is_a_bound() {
        let predictions = Predictions::default();
        let fingerprint = Fingerprint::of(&hole(""), &Options::default()).unwrap();
        for number in 0..=MAX_ENTRIES {
            predictions.keep(fingerprint, &format!("{number}:"), "text", FinishReason::Stop);
        }
        assert_eq!(found(&predictions, "0:", ""), None);
        assert_eq!(found(&predictions, "1:", "").as_deref(), Some("text"));
        assert_eq!(predictions.0.lock().unwrap().len(), MAX_ENTRIES);
    }
}
