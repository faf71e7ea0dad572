//! Draft tokens for speculative decoding by prompt lookup (Saxena 2023): code repeats itself, and an infill copies from around
//! the hole.
//!
//! The last tokens are looked up in the text, and what followed them there is the draft. The model verifies all draft tokens
//! in one step. A rejected one costs some arithmetic; the output is token by token the same as without.

use crate::token::TokenId;

/// How many of the last tokens are looked up: four if they occurred before, else three, else two.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;
/// The longest pause after rejected drafts, in steps.
const MAX_PAUSE: u32 = 32;

/// How many tokens one sequence may draft: more while drafts are accepted, with growing pauses while they are rejected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    most: usize,
    tokens: usize,
    /// For how many steps nothing is drafted.
    wait: u32,
    /// The length of the next pause.
    pause: u32,
}

impl Allowance {
    pub(super) fn new(most: usize) -> Self {
        Self { most, tokens: most.div_ceil(2), wait: 0, pause: 1 }
    }

    /// How many tokens may be drafted in this step.
    pub(super) fn take(&mut self) -> usize {
        if self.wait > 0 {
            self.wait -= 1;
            return 0;
        }
        self.tokens
    }

    /// `accepted` of the `drafted` tokens were accepted.
    pub(super) fn learn(&mut self, drafted: usize, accepted: usize) {
        if accepted == drafted {
            (self.tokens, self.pause) = ((2 * self.tokens).min(self.most), 1);
        } else if accepted == 0 {
            self.tokens = (self.tokens / 2).max(1.min(self.most));
            self.wait = self.pause;
            self.pause = (2 * self.pause).min(MAX_PAUSE);
        } else {
            (self.tokens, self.pause) = (accepted, 1);
        }
    }
}

/// Tokens that may follow `text`, an endless iterator; empty if the end of `text` did not occur before.
pub(super) fn lookup(text: &[TokenId]) -> impl Iterator<Item = TokenId> + '_ {
    // An occurrence nearer than a draft is long is a repetition: it is continued.
    (SHORTEST..=LONGEST)
        .rev()
        .find_map(|length| follows(text, length))
        .unwrap_or_default()
        .iter()
        .copied()
        .cycle()
}

/// What followed the latest earlier occurrence of the last `length` tokens: the nearest is the most likely.
fn follows(text: &[TokenId], length: usize) -> Option<&[TokenId]> {
    let last = &text[text.len().checked_sub(length)?..];
    let before = &text[..text.len() - 1];
    let at = before.windows(length).rposition(|window| window == last)?;
    Some(&text[at + length..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafted(text: &[u32], limit: usize) -> Vec<u32> {
        let text: Vec<_> = text.iter().copied().map(TokenId).collect();
        lookup(&text).take(limit).map(|token| token.0).collect()
    }

    #[test]
    fn what_followed_the_last_tokens_before_is_drafted() {
        assert_eq!(drafted(&[1, 2, 3, 4, 5, 6, 9, 2, 3, 4, 5], 3), [6, 9, 2]);
        assert_eq!(drafted(&[1, 2, 3, 4, 5, 6, 9, 2, 3, 4, 5], 1), [6]);
        assert!(drafted(&[1, 2, 3, 4, 5, 6, 9, 2, 3, 4, 5], 0).is_empty());
    }

    #[test]
    fn a_longer_match_wins_and_among_equals_the_latest() {
        assert_eq!(drafted(&[1, 2, 3, 7, 8, 2, 3, 6, 1, 2, 3], 1), [7]);
        assert_eq!(drafted(&[2, 3, 7, 0, 2, 3, 6, 5, 2, 3], 1), [6]);
    }

    #[test]
    fn a_run_goes_on() {
        assert_eq!(drafted(&[5, 5, 5, 5], 3), [5, 5, 5]);
        assert_eq!(drafted(&[1, 2, 1, 2, 1, 2], 5), [1, 2, 1, 2, 1]);
    }

    #[test]
    fn nothing_is_drafted_where_nothing_repeats() {
        for text in [&[][..], &[1], &[1, 1], &[1, 2], &[1, 2, 3, 4], &[1, 9, 2, 9, 3]] {
            assert!(drafted(text, 8).is_empty(), "{text:?}");
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
