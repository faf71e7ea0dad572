//! Continuous batching: which tokens of which sequences the model reads in the next step. A state machine without a model.
//!
//! A request is admitted once there are KV blocks for its prompt and all new tokens, so no sequence is preempted. In each
//! step, every sequence that generates decodes one token, with draft tokens, and the rest of the token budget goes to
//! prompts in the order of admission (chunked prefill). So a long prompt does not stall decoding.

use std::collections::VecDeque;
use std::ops::Range;

use zeroize::Zeroize;

use super::blocks::{BlockPool, Table};
use super::chain::{Chain, Root};
use super::draft::{self, Allowance};
use super::{Finish, GenerationRequest};
use crate::model::Slice;
use crate::token::TokenId;
use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};

/// Rows of a step that cost little beside the first, because reading the weights takes longer than multiplying them: draft
/// tokens are added up to here.
pub(super) const FREE_ROWS: usize = 8;

/// How steps are made up.
#[derive(Clone, Copy, Debug)]
pub(super) struct SchedulerConfig {
    /// Token budget of a step.
    pub(super) step_tokens: usize,
    /// Draft tokens of a sequence in a step; 0 disables speculative decoding.
    pub(super) draft_tokens: usize,
    /// Whether blocks are kept for sequences that begin the same (prefix cache).
    pub(super) prefix_cache: bool,
    /// Whether blocks of generated tokens are kept too.
    pub(super) keep_generated: bool,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    /// Steps that the model has taken.
    pub(super) steps: u64,
    /// Tokens of prompts that were admitted.
    pub(super) prefix_queries: u64,
    /// Those of them that need not be read.
    pub(super) prefix_hits: u64,
    /// Draft tokens.
    pub(super) drafted: u64,
    /// Draft tokens that were accepted.
    pub(super) accepted: u64,
}

/// The running sequences. `T` is what the engine keeps for each of them.
pub(super) struct Scheduler<T> {
    config: SchedulerConfig,
    pool: BlockPool,
    running: Vec<Running<T>>,
    counters: Counters,
}

/// A sequence. Its text is wiped when it is dropped.
pub(super) struct Running<T> {
    pub(super) task: T,
    text: Text,
    stop_ids: &'static [TokenId],
    /// How long the prompt is.
    prompt: usize,
    /// How many tokens there may be in the end.
    end: usize,
    /// How many of the tokens have keys and values.
    read: usize,
    /// How many tokens it reads in this step.
    planned: usize,
    allowance: Allowance,
    table: Table,
    chain: Chain,
    /// How many of the blocks are in the prefix cache.
    published: usize,
}

/// The prompt, the generated tokens, and during a step the draft tokens behind them.
struct Text {
    tokens: Vec<TokenId>,
    /// How many of the tokens are not draft tokens.
    verified: usize,
    /// Draft tokens of this step.
    drafted: usize,
    /// How many of those were accepted.
    accepted: usize,
}

/// How a sequence continues after a token has been sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// With the next row of this step: the draft token was accepted.
    Row,
    /// In the next step.
    Step,
    /// It is finished.
    Finished(Finish),
}

impl<T> Scheduler<T> {
    pub(super) fn new(config: SchedulerConfig, pool: BlockPool) -> Self {
        Self { config, pool, running: Vec::new(), counters: Counters::default() }
    }

    /// Takes on the request that `request` finds in `task`, and its prompt with it.
    ///
    /// # Errors
    /// There is no room for it now: `task` comes back as it was.
    pub(super) fn admit(
        &mut self,
        mut task: T,
        request: impl FnOnce(&mut T) -> &mut GenerationRequest,
    ) -> Result<&mut Running<T>, T> {
        let request = request(&mut task);
        let end = request.prompt.len().saturating_add(request.max_new_tokens);
        let mut chain = Chain::new(Root::new(&request.namespace));
        if self.config.prefix_cache {
            chain.extend(&request.prompt);
        }
        // The last token is always read: its logits are needed, and only keys and values are cached.
        let reusable = request.prompt.len().saturating_sub(1) / BLOCK_TOKENS;
        let known = request.prompt.len().saturating_sub(1);
        let known = if self.config.prefix_cache { request.prompt.get(..known) } else { None };
        let blocks = end.div_ceil(BLOCK_TOKENS);
        let Some(table) = self.pool.acquire(&chain, reusable, known.unwrap_or_default(), blocks) else {
            return Err(task);
        };
        let (tokens, stop_ids) = (std::mem::take(&mut request.prompt), request.stop_ids);
        let read = table.cached();
        self.counters.prefix_queries += tokens.len() as u64;
        self.counters.prefix_hits += read as u64;
        Ok(self.running.push_mut(Running {
            task,
            stop_ids,
            prompt: tokens.len(),
            end,
            read,
            planned: 0,
            allowance: Allowance::new(self.config.draft_tokens),
            published: table.filled(),
            table,
            chain,
            text: Text { verified: tokens.len(), tokens, drafted: 0, accepted: 0 },
        }))
    }

    /// Decides what each sequence reads in the next step.
    pub(super) fn plan(&mut self) {
        let generating = self.running.iter().filter(|sequence| sequence.unread() == 1).count();
        let drafts = FREE_ROWS.saturating_sub(generating) / generating.max(1);
        let mut left = self.config.step_tokens.saturating_sub(generating).max(1);
        for sequence in &mut self.running {
            if sequence.unread() == 1 {
                sequence.draft(drafts);
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

    /// `of` the task of each row of that step that gets logits.
    pub(super) fn for_each_logit_row<R: Clone>(&self, of: impl Fn(&T) -> R) -> Vec<R> {
        let sequences = self.running.iter().filter(|sequence| sequence.planned > 0);
        sequences.flat_map(|sequence| vec![of(&sequence.task); sequence.num_logits()]).collect()
    }

    /// The blocks that must be cleared before the next step.
    pub(super) fn take_uncleared(&self) -> Vec<BlockId> {
        self.pool.take_uncleared()
    }

    /// The step was taken. `settle` gets each sequence and the range of its rows among those that get logits, and
    /// returns how it has ended, if it has; those tasks are returned once their blocks have been released.
    pub(super) fn stepped<E>(
        &mut self,
        mut settle: impl FnMut(&mut Running<T>, Range<usize>) -> Option<E>,
    ) -> Vec<(T, E)> {
        let mut row = 0;
        let (config, counters) = (self.config, &mut self.counters);
        counters.steps += 1;
        extract(&mut self.running, Some(config), |sequence| {
            let rows = row..row + sequence.num_logits();
            row = rows.end;
            let end = settle(sequence, rows);
            counters.drafted += sequence.text.drafted as u64;
            counters.accepted += sequence.text.accepted as u64;
            sequence.close(config);
            end
        })
    }

    /// Ends the sequences for which `ended` gives a reason, between two steps.
    pub(super) fn end<E>(&mut self, mut ended: impl FnMut(&T) -> Option<E>) -> Vec<(T, E)> {
        extract(&mut self.running, Some(self.config), |sequence| ended(&sequence.task))
    }

    /// Ends all sequences after a step that failed: its keys and values are invalid.
    pub(super) fn fail<E>(&mut self, mut end: impl FnMut() -> E) -> Vec<(T, E)> {
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

/// Removes the sequences for which `ended` gives a reason, and returns their tasks. With `config` their last, partially
/// filled blocks go to the prefix cache.
fn extract<T, E>(
    running: &mut Vec<Running<T>>,
    config: Option<SchedulerConfig>,
    mut ended: impl FnMut(&mut Running<T>) -> Option<E>,
) -> Vec<(T, E)> {
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
            config.iter().for_each(|config| sequence.publish_tail(*config));
            sequence.task
        })
        .collect();
    out.into_iter().zip(reasons).collect()
}

impl<T> Running<T> {
    /// The prompt and what was generated.
    pub(super) fn text(&self) -> &[TokenId] {
        &self.text.tokens[..self.text.verified]
    }

    /// How many of the tokens have keys and values; before the first step, those from the prefix cache.
    pub(super) fn cached(&self) -> usize {
        self.read
    }

    /// After how many of the tokens of this step logits are needed.
    fn num_logits(&self) -> usize {
        let all = self.planned > 0 && self.planned == self.unread() && self.text.verified < self.end;
        if all { 1 + self.text.drafted } else { 0 }
    }

    /// Whether no tokens were requested, and the prompt has been read.
    pub(super) fn only_read(&self) -> bool {
        self.text.verified == self.end && self.read + self.planned == self.end
    }

    /// Appends `token`, which the model has sampled, or accepts it if it was drafted.
    pub(super) fn accept(&mut self, token: TokenId) -> Next {
        let text = &mut self.text;
        if self.stop_ids.contains(&token) {
            text.tokens.truncate(text.verified);
            return Next::Finished(Finish::Stop);
        }
        let drafted = text.tokens.get(text.verified) == Some(&token);
        if drafted {
            text.accepted += 1;
        } else {
            text.tokens.truncate(text.verified);
            text.tokens.push(token);
        }
        text.verified += 1;
        match (text.verified == self.end, drafted) {
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
            num_logits: self.num_logits(),
            prompt: self.prompt,
        }
    }

    /// Appends up to `limit` draft tokens; the token after them must still have room.
    fn draft(&mut self, limit: usize) {
        let room = (self.end - self.text.verified).saturating_sub(1);
        let limit = self.allowance.take().min(limit).min(room);
        if limit > 0 {
            let drafts: Vec<_> = draft::lookup(&self.text.tokens).take(limit).collect();
            self.text.drafted = drafts.len();
            self.text.tokens.extend(drafts);
        }
    }

    /// Ends the step: rejected draft tokens are dropped, and filled blocks go to the prefix cache.
    fn close(&mut self, config: SchedulerConfig) {
        let Text { tokens, verified, drafted, accepted } = &mut self.text;
        // After a rejection, the last token was sampled in place of a draft token and has not been read.
        let valid = if *accepted == *drafted { self.read + self.planned } else { *verified - 1 };
        self.read = valid.min(*verified);
        self.planned = 0;
        tokens.truncate(*verified);
        if *drafted > 0 {
            self.allowance.learn(*drafted, *accepted);
        }
        (*drafted, *accepted) = (0, 0);
        if config.prefix_cache {
            let kept = if config.keep_generated { self.read } else { self.read.min(self.prompt) };
            self.chain.extend(&tokens[..kept]);
            let filled = (kept / BLOCK_TOKENS).min(self.chain.links().len());
            if filled > self.published {
                self.table.publish(self.published, &self.chain.links()[self.published..filled]);
                self.published = filled;
            }
        }
    }

    /// How many tokens, from the first on, may be cached.
    fn kept(&self, config: SchedulerConfig) -> usize {
        if config.keep_generated { self.read } else { self.read.min(self.prompt) }
    }

    /// Adds the last, partially filled block to the prefix cache.
    fn publish_tail(&self, config: SchedulerConfig) {
        if !config.prefix_cache {
            return;
        }
        let kept = self.kept(config);
        let full = kept / BLOCK_TOKENS;
        let rest = self.text.tokens.get(full * BLOCK_TOKENS..kept);
        if let (Some(after), Some(rest)) = (self.chain.before(full), rest) {
            self.table.publish_tail(full, after, rest);
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
