//! Stop texts beyond those that the server takes, matched here, however the text is cut into pieces.

use crate::secret::Secret;

/// Passes text on up to the first of its stop texts.
#[derive(Debug, Default)]
pub(crate) struct StopMatcher {
    stops: Vec<Secret<String>>,
    /// What may be the beginning of a stop text.
    held: Secret<String>,
    stopped: bool,
}

impl StopMatcher {
    /// Looks for `stops`, of which none is empty.
    pub(crate) fn new(stops: Vec<Secret<String>>) -> Self {
        Self { stops, held: Secret::new(String::new()), stopped: false }
    }

    /// Whether a stop text has come: nothing that follows is passed on.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes the next piece; what of the text so far is certain to come before a stop text.
    pub(crate) fn push(&mut self, piece: &str) -> Secret<String> {
        if self.stopped {
            return Secret::default();
        }
        self.held.append(piece);
        let held = self.held.expose_mut();
        let found = self.stops.iter().filter_map(|stop| held.find(stop.expose().as_str())).min();
        let keep = match found {
            Some(at) => {
                self.stopped = true;
                at
            }
            None => {
                held.len() - self.stops.iter().map(|stop| overlap(held, stop.expose())).max().unwrap_or(0)
            }
        };
        let rest = Secret::new(held.split_off(keep));
        let passed = std::mem::replace(&mut self.held, rest);
        if self.stopped {
            self.held = Secret::default();
        }
        passed
    }

    /// The text has ended: what was held back.
    pub(crate) fn finish(&mut self) -> Secret<String> {
        std::mem::take(&mut self.held)
    }
}

/// How many bytes at the end of `text` begin `stop`, without being all of it.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(at, _)| at).filter(|&at| at > 0).rev();
    lengths.into_iter().find(|&at| stop.get(..at).is_some_and(|start| text.ends_with(start))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher =
            StopMatcher::new(stops.iter().map(|stop| Secret::new((*stop).to_owned())).collect());
        let mut text = String::new();
        for piece in pieces {
            text.push_str(matcher.push(piece).expose());
        }
        text.push_str(matcher.finish().expose());
        (text, matcher.stopped())
    }

    #[test]
    fn a_stop_text_is_found_however_the_text_is_cut() {
        let text = "return a\n\n\ndef b():";
        for size in 1..=text.len() {
            let pieces: Vec<&str> =
                text.as_bytes().chunks(size).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
            assert_eq!(run(&["\n\n\n", "class "], &pieces), ("return a".to_owned(), true), "{size}");
        }
    }

    #[test]
    fn what_only_begins_like_a_stop_text_is_passed_on() {
        assert_eq!(run(&["</s>"], &["a <", "/", "b", " </"]), ("a </b </".to_owned(), false));
        assert_eq!(run(&["가나"], &["x가", "다"]), ("x가다".to_owned(), false));
        assert_eq!(run(&["가나"], &["x가", "나", "다"]), ("x".to_owned(), true));
        assert_eq!(run(&["aab"], &["aa", "ab"]), ("a".to_owned(), true));
    }

    #[test]
    fn the_first_of_several_counts() {
        assert_eq!(run(&["b", "a"], &["xxab"]), ("xx".to_owned(), true));
        assert_eq!(run(&[], &["ab"]), ("ab".to_owned(), false));
    }
}
