//! Guesses what comes next from what came before: code repeats itself, and an infill copies from around the hole.
//!
//! The last tokens are looked up in the text, and what followed them there is the guess ("prompt lookup decoding",
//! Saxena 2023). The model checks all of a guess in one step, so a wrong one costs some arithmetic and changes
//! nothing: what is generated is, token by token, what would have been generated without.

use crate::tokenizer::TokenId;

/// How many of the last tokens are looked up: rather four than three, rather three than two.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;
/// How many steps are not guessed at after a run of wrong guesses, at most.
const MAX_PAUSE: u32 = 32;

/// How much one sequence may guess: more while its guesses are right, and now and then while they are wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    most: usize,
    tokens: usize,
    /// For how many steps nothing is guessed.
    wait: u32,
    /// How long the next wait is.
    pause: u32,
}

impl Allowance {
    pub(super) fn new(most: usize) -> Self {
        Self { most, tokens: most.div_ceil(2), wait: 0, pause: 1 }
    }

    /// How many tokens may be guessed in this step.
    pub(super) fn take(&mut self) -> usize {
        if self.wait > 0 {
            self.wait -= 1;
            return 0;
        }
        self.tokens
    }

    /// So many of the tokens that were guessed were right.
    pub(super) fn learn(&mut self, guessed: usize, right: usize) {
        if right == guessed {
            (self.tokens, self.pause) = ((2 * self.tokens).min(self.most), 1);
        } else if right == 0 {
            self.tokens = (self.tokens / 2).max(1.min(self.most));
            self.wait = self.pause;
            self.pause = (2 * self.pause).min(MAX_PAUSE);
        } else {
            (self.tokens, self.pause) = (right, 1);
        }
    }
}

/// Tokens that may follow `text`, without end; none if nothing like its end came before.
pub(super) fn guess(text: &[TokenId]) -> impl Iterator<Item = TokenId> + '_ {
    // What lies nearer than a guess is long is a run: it is taken to go on.
    (SHORTEST..=LONGEST)
        .rev()
        .find_map(|length| follows(text, length))
        .unwrap_or_default()
        .iter()
        .copied()
        .cycle()
}

/// What came after the latest occurrence of the last `length` tokens that is not the end itself: what is near is
/// likelier to come again.
fn follows(text: &[TokenId], length: usize) -> Option<&[TokenId]> {
    let last = &text[text.len().checked_sub(length)?..];
    let before = &text[..text.len() - 1];
    let at = before.windows(length).rposition(|window| window == last)?;
    Some(&text[at + length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(text: &[u32], limit: usize) -> Vec<u32> {
        let text: Vec<_> = text.iter().copied().map(TokenId).collect();
        guess(&text).take(limit).map(|token| token.0).collect()
    }

    #[test]
    fn what_followed_the_last_tokens_before_is_guessed() {
        assert_eq!(guessed(&[1, 2, 3, 4, 5, 6, 9, 2, 3, 4, 5], 3), [6, 9, 2]);
        assert_eq!(guessed(&[1, 2, 3, 4, 5, 6, 9, 2, 3, 4, 5], 1), [6]);
        assert!(guessed(&[1, 2, 3, 4, 5, 6, 9, 2, 3, 4, 5], 0).is_empty());
    }

    #[test]
    fn a_longer_match_wins_and_among_equals_the_latest() {
        assert_eq!(guessed(&[1, 2, 3, 7, 8, 2, 3, 6, 1, 2, 3], 1), [7]);
        assert_eq!(guessed(&[2, 3, 7, 0, 2, 3, 6, 5, 2, 3], 1), [6]);
    }

    #[test]
    fn a_run_goes_on() {
        assert_eq!(guessed(&[5, 5, 5, 5], 3), [5, 5, 5]);
        assert_eq!(guessed(&[1, 2, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn nothing_is_guessed_where_nothing_repeats() {
        for text in [&[][..], &[1], &[1, 1], &[1, 2], &[1, 2, 3, 4], &[1, 9, 2, 9, 3]] {
            assert!(guessed(text, 8).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn the_allowance_follows_success() {
        let mut allowance = Allowance::new(8);
        assert_eq!(allowance.take(), 4);
        allowance.learn(4, 4);
        assert_eq!(allowance.take(), 8);
        allowance.learn(8, 3);
        assert_eq!(allowance.take(), 3);
        for pause in [1, 2, 4] {
            allowance.learn(3, 0);
            let waits = (0..).take_while(|_| allowance.take() == 0).count();
            assert_eq!(waits, pause);
        }
        assert_eq!(Allowance::new(0).take(), 0);
    }
}
