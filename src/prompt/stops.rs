//! Stop texts in a stream: nothing is shown that may yet turn out to be the start of one.
//!
//! The stop that is complete first ends the answer; of several that are complete with the same character, the
//! longest. So the result does not depend on how the stream is cut into pieces. Each stop is followed by a
//! Knuth-Morris-Pratt automaton over bytes: the work is linear in the text, whatever the stops are.

use zeroize::Zeroizing;

use super::PromptError;
use crate::protocol::openai::MAX_STOPS;
use crate::secret::Secret;

/// The stop texts of one request.
#[derive(Debug, Default)]
pub struct Stops(Vec<Secret<String>>);

/// Looks for stop texts in an answer as it is made.
#[derive(Debug)]
pub struct StopMatcher {
    automata: Vec<Automaton>,
    /// The end of the text so far that may be the start of a stop.
    held: Secret<String>,
    stopped: bool,
}

/// The text that can be shown after a push.
#[derive(Debug)]
pub struct SafeText {
    /// Text that is safe to show now; may be empty.
    pub text: Secret<String>,
    /// A stop text was found; nothing follows `text`.
    pub stopped: bool,
}

#[derive(Debug)]
struct Automaton {
    stop: Secret<String>,
    /// For each length of a matched start, the longest shorter start that is also its end.
    fallback: Vec<usize>,
    /// How many bytes of the stop the text so far ends with.
    matched: usize,
}

impl Stops {
    /// Checks the texts.
    ///
    /// # Errors
    /// [`PromptError::TooManyStops`] and [`PromptError::EmptyStop`].
    pub fn new(stops: Vec<Secret<String>>) -> Result<Self, PromptError> {
        if stops.len() > MAX_STOPS {
            return Err(PromptError::TooManyStops);
        }
        if stops.iter().any(|stop| stop.expose().is_empty()) {
            return Err(PromptError::EmptyStop);
        }
        Ok(Self(stops))
    }

    /// A matcher for one answer.
    pub fn matcher(&self) -> StopMatcher {
        let copy = |stop: &Secret<String>| Secret::new(stop.expose().clone());
        StopMatcher {
            automata: self.0.iter().map(|stop| Automaton::new(copy(stop))).collect(),
            held: Secret::new(String::new()),
            stopped: false,
        }
    }
}

impl StopMatcher {
    /// Takes the next piece of the answer and gives out what is certain not to belong to a stop text.
    ///
    /// After a stop every piece is ignored.
    pub fn push(&mut self, text: &str) -> SafeText {
        if self.stopped {
            return SafeText { text: Secret::new(String::new()), stopped: true };
        }
        let held = self.held.expose().len();
        let mut all = Zeroizing::new(String::with_capacity(held + text.len()));
        all.push_str(self.held.expose());
        all.push_str(text);

        for (index, byte) in text.bytes().enumerate() {
            if let Some(stop) = self.advance(byte) {
                // The stop was held back from its first byte, so it begins in `all`, and where a character does.
                self.stopped = true;
                self.held = Secret::new(String::new());
                all.truncate((held + index + 1).saturating_sub(stop));
                return SafeText { text: Secret::new(std::mem::take(&mut *all)), stopped: true };
            }
        }
        let hold = self.automata.iter().map(|automaton| automaton.matched).max().unwrap_or(0);
        let (show, hold) = all.split_at(all.len() - hold);
        self.held = Secret::new(hold.to_owned());
        SafeText { text: Secret::new(show.to_owned()), stopped: false }
    }

    /// What was held back, once the answer has ended by other means; empty after a stop.
    pub fn finish(mut self) -> Secret<String> {
        std::mem::replace(&mut self.held, Secret::new(String::new()))
    }

    /// Feeds one byte to every automaton; the length of the longest stop that it completes.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        let complete = self.automata.iter_mut().filter_map(|automaton| automaton.advance(byte));
        complete.max()
    }
}

impl Automaton {
    fn new(stop: Secret<String>) -> Self {
        let mut automaton = Self { fallback: Vec::with_capacity(stop.expose().len()), stop, matched: 0 };
        // The table of the stop is the run of the automaton over the stop itself, one byte behind.
        automaton.fallback.push(0);
        for index in 1..automaton.stop.expose().len() {
            let byte = automaton.stop.expose().as_bytes().get(index).copied().unwrap_or_default();
            automaton.step(byte);
            automaton.fallback.push(automaton.matched);
        }
        automaton.matched = 0;
        automaton
    }

    /// Feeds one byte; the stop's length if it is now complete.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        self.step(byte);
        let length = self.stop.expose().len();
        (self.matched == length).then_some(length)
    }

    /// `matched` is below the stop's length here: a complete stop ends the run.
    fn step(&mut self, byte: u8) {
        let stop = self.stop.expose().as_bytes();
        while self.matched > 0 && stop.get(self.matched) != Some(&byte) {
            self.matched = self.fallback.get(self.matched - 1).copied().unwrap_or(0);
        }
        if stop.get(self.matched) == Some(&byte) {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stops(texts: &[&str]) -> Stops {
        Stops::new(texts.iter().map(|&text| Secret::new(text.to_owned())).collect()).unwrap()
    }

    fn run(matcher: Stops, pieces: &[&str]) -> (String, bool) {
        let mut matcher = matcher.matcher();
        let (mut shown, mut stopped) = (String::new(), false);
        for piece in pieces {
            let piece = matcher.push(piece);
            shown.push_str(piece.text.expose());
            stopped = piece.stopped;
        }
        shown.push_str(matcher.finish().expose());
        (shown, stopped)
    }

    /// The definition: the shortest start of the text that ends with a stop, without the longest such stop.
    fn naive(stops: &[String], text: &str) -> (String, bool) {
        for end in 1..=text.len() {
            let start = &text.as_bytes()[..end];
            let longest = stops.iter().filter(|stop| start.ends_with(stop.as_bytes())).map(String::len).max();
            if let Some(longest) = longest {
                return (text.split_at(end - longest).0.to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    #[test]
    fn without_stops_nothing_is_held_back() {
        let mut matcher = Stops::default().matcher();
        let piece = matcher.push("한");
        assert_eq!((piece.text.expose().as_str(), piece.stopped), ("한", false));
    }

    #[test]
    fn only_what_may_be_the_start_of_a_stop_is_held_back() {
        let mut matcher = stops(&["\n\n", "```"]).matcher();
        let mut push = |text: &str| matcher.push(text).text.expose().clone();
        assert_eq!(push("let x;\n"), "let x;");
        assert_eq!(push("``"), "\n");
        assert_eq!(push("a`"), "``a");
        assert_eq!(matcher.finish().expose(), "`");
    }

    #[test]
    fn a_stop_across_pieces_ends_the_answer_and_is_not_shown() {
        assert_eq!(run(stops(&["\n\ndef "]), &["a\n", "\nde", "f b", "c"]), ("a".to_owned(), true));
    }

    #[test]
    fn the_stop_that_is_complete_first_wins_and_then_the_longest() {
        assert_eq!(run(stops(&["abc", "b"]), &["xabc"]), ("xa".to_owned(), true));
        assert_eq!(run(stops(&["c", "abc", "bc"]), &["xabc"]), ("x".to_owned(), true));
    }

    #[test]
    fn what_was_held_back_comes_out_when_it_is_no_stop_after_all() {
        assert_eq!(run(stops(&["aab"]), &["a", "a", "a"]), ("aaa".to_owned(), false));
        assert_eq!(run(stops(&["aab"]), &["aa", "a", "b"]), ("a".to_owned(), true));
    }

    #[test]
    fn a_character_that_begins_like_a_stop_is_held_and_shown_whole() {
        // 한 is ed 95 9c, 핸 is ed 95 b8: they share two bytes.
        assert_eq!(run(stops(&["한글"]), &["핸", "한", "한글"]), ("핸한".to_owned(), true));
    }

    #[test]
    fn too_many_stops_and_empty_ones_are_refused() {
        let many = |count| Stops::new((0..count).map(|_| Secret::new("x".to_owned())).collect());
        assert!(many(MAX_STOPS).is_ok());
        assert_eq!(many(MAX_STOPS + 1).unwrap_err(), PromptError::TooManyStops);
        let empty = Stops::new(vec![Secret::new(String::new())]);
        assert_eq!(empty.unwrap_err(), PromptError::EmptyStop);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        // A small alphabet with characters that share bytes, so that stops and near-stops are frequent.
        #[test]
        fn any_split_gives_what_a_naive_search_of_the_whole_gives(
            stop_texts in prop::collection::vec("[ab한핸🦀]{1,4}", 0..4),
            pieces in prop::collection::vec("[ab한핸🦀]{0,5}", 0..12),
        ) {
            let list = stop_texts.iter().map(|stop| Secret::new(stop.clone())).collect();
            let borrowed: Vec<_> = pieces.iter().map(String::as_str).collect();
            let found = run(Stops::new(list).unwrap(), &borrowed);
            prop_assert_eq!(found, naive(&stop_texts, &pieces.concat()));
        }
    }
}
