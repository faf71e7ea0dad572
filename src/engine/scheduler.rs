//! Which tokens of which requests the model reads in the next step: a state machine without a model.
//!
//! A request is admitted once there are blocks for all that it may come to, so none is ever thrown out again. Each
//! step, every sequence that generates reads its last token, and what is left of the step goes to prompts, in the
//! order in which they came, so that a long prompt neither keeps others from going on nor is kept waiting by them.

use std::collections::VecDeque;
use std::ops::Range;

use zeroize::Zeroize;

use super::blocks::{BlockPool, Table};
use super::chain::{Chain, Root};
use super::draft::{self, Allowance};
use super::{Finish, GenerationRequest};
use crate::model::Slice;
use crate::tokenizer::TokenId;
use codeseal_kernels::cpu::{BLOCK_TOKENS, BlockId};

/// Rows of a step that cost next to nothing beside the first, because reading the weights takes longer than
/// multiplying them: guesses are made up to here.
pub(super) const FREE_ROWS: usize = 8;

/// What a step may come to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tokens that are read in a step.
    pub(super) step_tokens: usize,
    /// Tokens that are guessed for a sequence in a step; 0 means never.
    pub(super) draft_tokens: usize,
    /// Whether what was read is kept for texts that begin the same.
    pub(super) prefix_cache: bool,
    /// Whether what was generated is kept too.
    pub(super) keep_generated: bool,
}

/// What has been done since the start. Only ever grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Tokens of prompts that were admitted.
    pub(super) prefix_queries: u64,
    /// Those of them that need not be read.
    pub(super) prefix_hits: u64,
    /// Tokens that were guessed.
    pub(super) drafted: u64,
    /// Those of them that were right.
    pub(super) accepted: u64,
}

/// The sequences that are worked on. `J` is what each of them is for.
pub(super) struct Scheduler<J> {
    limits: Limits,
    pool: BlockPool,
    running: Vec<Running<J>>,
    counters: Counters,
}

/// A sequence. Its text is wiped when it is dropped.
pub(super) struct Running<J> {
    pub(super) job: J,
    text: Text,
    stop_ids: &'static [TokenId],
    /// How long the prompt is.
    prompt: usize,
    /// How many tokens there may be in the end.
    end: usize,
    /// How many of the tokens the model has read.
    read: usize,
    /// How many tokens it reads in this step.
    planned: usize,
    allowance: Allowance,
    table: Table,
    chain: Chain,
    /// How many of the blocks others may know of.
    published: usize,
}

/// The prompt, what was generated, and during a step what is guessed to follow.
struct Text {
    tokens: Vec<TokenId>,
    /// How many of the tokens are not guessed.
    settled: usize,
    /// How many were guessed in this step.
    guessed: usize,
    /// How many of those turned out right.
    right: usize,
}

/// What becomes of a sequence now that a token has been chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on in the next row of this step: the token had been guessed.
    Row,
    /// It goes on in the next step.
    Step,
    /// It does not go on.
    Finished(Finish),
}

impl<J> Scheduler<J> {
    pub(super) fn new(limits: Limits, blocks: usize) -> Self {
        let pool = BlockPool::new(blocks);
        Self { limits, pool, running: Vec::new(), counters: Counters::default() }
    }

    /// Takes on the request that `request` finds in `job`, and its prompt with it.
    ///
    /// # Errors
    /// There is no room for it now: `job` comes back as it was.
    pub(super) fn admit(
        &mut self,
        mut job: J,
        request: impl FnOnce(&mut J) -> &mut GenerationRequest,
    ) -> Result<&mut Running<J>, J> {
        let request = request(&mut job);
        let end = request.prompt.len().saturating_add(request.max_new_tokens);
        let mut chain = Chain::new(Root::new(&request.namespace));
        if self.limits.prefix_cache {
            chain.extend(&request.prompt);
        }
        // The last token is read in any case: what the model says after it is not kept.
        let reusable = request.prompt.len().saturating_sub(1) / BLOCK_TOKENS;
        let known = request.prompt.len().saturating_sub(1);
        let known = if self.limits.prefix_cache { request.prompt.get(..known) } else { None };
        let blocks = end.div_ceil(BLOCK_TOKENS);
        let Some(table) = self.pool.acquire(&chain, reusable, known.unwrap_or_default(), blocks) else {
            return Err(job);
        };
        let (tokens, stop_ids) = (std::mem::take(&mut request.prompt), request.stop_ids);
        let read = table.cached();
        self.counters.prefix_queries += tokens.len() as u64;
        self.counters.prefix_hits += read as u64;
        Ok(self.running.push_mut(Running {
            job,
            stop_ids,
            prompt: tokens.len(),
            end,
            read,
            planned: 0,
            allowance: Allowance::new(self.limits.draft_tokens),
            published: table.filled(),
            table,
            chain,
            text: Text { settled: tokens.len(), tokens, guessed: 0, right: 0 },
        }))
    }

    /// Decides what each sequence reads in the next step.
    pub(super) fn plan(&mut self) {
        let generating = self.running.iter().filter(|sequence| sequence.unread() == 1).count();
        let guesses = FREE_ROWS.saturating_sub(generating) / generating.max(1);
        let mut left = self.limits.step_tokens.saturating_sub(generating).max(1);
        for sequence in &mut self.running {
            if sequence.unread() == 1 {
                sequence.guess(guesses);
                sequence.planned = sequence.unread();
            } else {
                sequence.planned = sequence.unread().min(left);
                left -= sequence.planned;
            }
        }
    }

    /// The step that was planned. Sequences that read nothing are not in it.
    pub(super) fn batch(&self) -> Vec<Slice<'_>> {
        self.running.iter().filter(|sequence| sequence.planned > 0).map(Running::slice).collect()
    }

    /// What `of` says of the job of each wanted token of that step.
    pub(super) fn for_each_wanted<T: Clone>(&self, of: impl Fn(&J) -> T) -> Vec<T> {
        let sequences = self.running.iter().filter(|sequence| sequence.planned > 0);
        sequences.flat_map(|sequence| vec![of(&sequence.job); sequence.wanted()]).collect()
    }

    /// The blocks that must be cleared before the next step.
    pub(super) fn take_uncleared(&self) -> Vec<BlockId> {
        self.pool.take_uncleared()
    }

    /// The step was taken. `settle` is given each sequence and which of the batch's wanted rows are its own, and says
    /// whether it has ended; those that have come back when their blocks are free.
    pub(super) fn stepped<E>(
        &mut self,
        mut settle: impl FnMut(&mut Running<J>, Range<usize>) -> Option<E>,
    ) -> Vec<(J, E)> {
        let mut row = 0;
        let (limits, counters) = (self.limits, &mut self.counters);
        extract(&mut self.running, Some(limits), |sequence| {
            let rows = row..row + sequence.wanted();
            row = rows.end;
            let end = settle(sequence, rows);
            counters.drafted += sequence.text.guessed as u64;
            counters.accepted += sequence.text.right as u64;
            sequence.close(limits);
            end
        })
    }

    /// Ends the sequences for which `ended` gives a reason, between two steps.
    pub(super) fn end<E>(&mut self, mut ended: impl FnMut(&J) -> Option<E>) -> Vec<(J, E)> {
        extract(&mut self.running, Some(self.limits), |sequence| ended(&sequence.job))
    }

    /// Ends all sequences after a step that failed: what it has written is of no use.
    pub(super) fn fail<E>(&mut self, mut end: impl FnMut() -> E) -> Vec<(J, E)> {
        extract(&mut self.running, None, |_| Some(end()))
    }

    /// How many sequences there are.
    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// What has been done so far.
    pub(super) fn counters(&self) -> Counters {
        self.counters
    }

    /// How many blocks are held by sequences.
    pub(super) fn held_blocks(&self) -> usize {
        self.pool.held()
    }
}

/// Takes out the sequences for which `ended` gives a reason, and drops all of them but the job. With `limits` their last
/// blocks can be found by others.
fn extract<J, E>(
    running: &mut Vec<Running<J>>,
    limits: Option<Limits>,
    mut ended: impl FnMut(&mut Running<J>) -> Option<E>,
) -> Vec<(J, E)> {
    let mut reasons = VecDeque::new();
    let out: Vec<_> = running
        .extract_if(.., |sequence| match ended(sequence) {
            Some(reason) => {
                reasons.push_back(reason);
                true
            }
            None => false,
        })
        .map(|sequence| {
            limits.iter().for_each(|limits| sequence.leave_rest(*limits));
            sequence.job
        })
        .collect();
    out.into_iter().zip(reasons).collect()
}

impl<J> Running<J> {
    /// The prompt and what was generated.
    pub(super) fn text(&self) -> &[TokenId] {
        &self.text.tokens[..self.text.settled]
    }

    /// How many of the tokens need not be read; asked before the first step, those that were found in the cache.
    pub(super) fn cached(&self) -> usize {
        self.read
    }

    /// After how many of the tokens of this step it matters what follows.
    fn wanted(&self) -> usize {
        let all = self.planned > 0 && self.planned == self.unread() && self.text.settled < self.end;
        if all { 1 + self.text.guessed } else { 0 }
    }

    /// Whether nothing was to be generated, and the prompt has been read.
    pub(super) fn only_read(&self) -> bool {
        self.text.settled == self.end && self.read + self.planned == self.end
    }

    /// `token` follows the text.
    pub(super) fn settle(&mut self, token: TokenId) -> Next {
        let text = &mut self.text;
        if self.stop_ids.contains(&token) {
            text.tokens.truncate(text.settled);
            return Next::Finished(Finish::Stop);
        }
        let guessed = text.tokens.get(text.settled) == Some(&token);
        if guessed {
            text.right += 1;
        } else {
            text.tokens.truncate(text.settled);
            text.tokens.push(token);
        }
        text.settled += 1;
        match (text.settled == self.end, guessed) {
            (true, _) => Next::Finished(Finish::Length),
            (false, true) => Next::Row,
            (false, false) => Next::Step,
        }
    }

    fn unread(&self) -> usize {
        self.text.tokens.len() - self.read
    }

    fn slice(&self) -> Slice<'_> {
        Slice {
            tokens: &self.text.tokens[self.read..self.read + self.planned],
            position: self.read,
            blocks: self.table.blocks(),
            wanted: self.wanted(),
            prompt: self.prompt,
        }
    }

    /// Appends up to `limit` tokens that may follow; a token after them must still have room.
    fn guess(&mut self, limit: usize) {
        let room = (self.end - self.text.settled).saturating_sub(1);
        let limit = self.allowance.take().min(limit).min(room);
        if limit > 0 {
            let guesses: Vec<_> = draft::guess(&self.text.tokens).take(limit).collect();
            self.text.guessed = guesses.len();
            self.text.tokens.extend(guesses);
        }
    }

    /// Ends the step: what was guessed wrong is forgotten, and what is filled may be found by others.
    fn close(&mut self, limits: Limits) {
        let Text { tokens, settled, guessed, right } = &mut self.text;
        // A token that was not guessed has not been read, whatever the model has read in its place.
        let valid = if *right == *guessed { self.read + self.planned } else { *settled - 1 };
        self.read = valid.min(*settled);
        self.planned = 0;
        tokens.truncate(*settled);
        if *guessed > 0 {
            self.allowance.learn(*guessed, *right);
        }
        (*guessed, *right) = (0, 0);
        if limits.prefix_cache {
            let kept = if limits.keep_generated { self.read } else { self.read.min(self.prompt) };
            self.chain.extend(&tokens[..kept]);
            let filled = (kept / BLOCK_TOKENS).min(self.chain.links().len());
            if filled > self.published {
                self.table.publish(self.published, &self.chain.links()[self.published..filled]);
                self.published = filled;
            }
        }
    }

    /// How many tokens, from the first on, others may find.
    fn kept(&self, limits: Limits) -> usize {
        if limits.keep_generated { self.read } else { self.read.min(self.prompt) }
    }

    /// Lets others find what is in the last block, which is filled in part.
    fn leave_rest(&self, limits: Limits) {
        if !limits.prefix_cache {
            return;
        }
        let kept = self.kept(limits);
        let full = kept / BLOCK_TOKENS;
        let rest = self.text.tokens.get(full * BLOCK_TOKENS..kept);
        if let (Some(after), Some(rest)) = (self.chain.before(full), rest) {
            self.table.leave_rest(full, after, rest);
        }
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.tokens.zeroize();
    }
}

#[cfg(test)]
mod tests;
