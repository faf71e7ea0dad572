//! The allocator of KV blocks, and the prefix cache.
//!
//! A block is free, or held by block tables, or idle: held by none but cached by its hash, so that a sequence that begins the
//! same need not be computed again. The last block of a sequence, which is partially filled (its tail), is cached by the hash
//! of the block before it and its tokens; a sequence that begins with some of these takes it over and continues in it, so it
//! is never shared. When no block is free, the least recently used idle one is evicted. A block is cleared before another
//! namespace gets it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use codeseal_kernels::kv::{BLOCK_TOKENS, BlockId};
use zeroize::Zeroizing;

use super::chain::{Chain, Link, Root};
use super::reserve::Reserve;
use crate::token::TokenId;

/// The fewest tokens for which a tail is cached, and taken over: taking it over for one or two tokens would cost another
/// sequence all the others.
const MIN_TAIL: usize = 4;

/// The state of all blocks. Clones are the same pool.
#[derive(Clone)]
pub(super) struct BlockPool(Rc<RefCell<State>>);

/// The block table of one sequence; its blocks are released on drop.
pub(super) struct Table {
    blocks: Vec<BlockId>,
    /// How many of them, from the first on, were found in the cache.
    filled: usize,
    /// How many tokens of the block behind those were found in the cache.
    tail: usize,
    pool: BlockPool,
}

struct State {
    entries: Vec<Entry>,
    free: Vec<BlockId>,
    /// The cached full blocks, by hash.
    named: HashMap<Link, BlockId>,
    /// The cached tails, by the hash of the block before; of several that follow one block the latest.
    tails: HashMap<Link, BlockId>,
    /// Cached blocks that no table holds, the least recently used first.
    idle: BTreeMap<u64, BlockId>,
    /// Counts releases to the cache, for the LRU order.
    clock: u64,
    /// Blocks that must be cleared before they are written.
    uncleared: Vec<BlockId>,
    /// Blocks that were never free.
    reserve: Option<Reserve>,
}

#[derive(Clone, Default)]
struct Entry {
    holders: u32,
    name: Option<Link>,
    /// Never beside a hash.
    tail: Option<Tail>,
    /// The namespace that wrote the block last.
    owner: Option<Root>,
    /// The key in [`State::idle`].
    idle_since: u64,
}

/// The tokens of a partially filled block.
#[derive(Clone)]
struct Tail {
    after: Link,
    tokens: Zeroizing<Vec<TokenId>>,
}

impl BlockPool {
    pub(super) fn new(blocks: usize) -> Self {
        let pool = Self::reserving(blocks, None);
        let ids = (0..blocks).rev().map(|block| BlockId(block as u32));
        pool.0.borrow_mut().free.extend(ids);
        pool
    }

    /// A pool of `blocks` blocks, all of which are in `reserve` at first.
    pub(super) fn reserving(blocks: usize, reserve: Option<Reserve>) -> Self {
        Self(Rc::new(RefCell::new(State {
            entries: vec![Entry::default(); blocks],
            free: Vec::new(),
            reserve,
            named: HashMap::new(),
            tails: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            uncleared: Vec::new(),
        })))
    }

    /// A table of `blocks` blocks for a sequence in `chain`'s namespace; none if there are too few. It begins with the cached
    /// blocks of the first `reusable` links of `chain`, and then a cached tail that agrees with `tokens`, the sequence from
    /// its beginning.
    pub(super) fn acquire(
        &self,
        chain: &Chain,
        reusable: usize,
        tokens: &[TokenId],
        blocks: usize,
    ) -> Option<Table> {
        let mut state = self.0.borrow_mut();
        let links = chain.links().iter().take(reusable.min(blocks));
        let mut table: Vec<BlockId> = links.map_while(|link| state.named.get(link).copied()).collect();
        let filled = table.len();
        let idle = table.iter().filter(|block| state.entries[block.0 as usize].holders == 0).count();
        // Rather than to evict what is cached.
        while state.free.len() < blocks - filled && state.grow() {}
        if blocks - filled > state.free.len() + state.idle.len() - idle {
            return None;
        }
        for block in &table {
            state.hold(*block);
        }
        let mut tail = 0;
        if filled < blocks
            && let Some(after) = chain.before(filled)
            && let Some((block, length)) =
                state.take_tail(after, tokens.get(filled * BLOCK_TOKENS..).unwrap_or_default())
        {
            table.push(block);
            tail = length;
        }
        while table.len() < blocks {
            table.push(state.fresh(chain.root())?);
        }
        Some(Table { blocks: table, filled, tail, pool: self.clone() })
    }

    /// The blocks that must be cleared before the next step.
    pub(super) fn take_uncleared(&self) -> Vec<BlockId> {
        std::mem::take(&mut self.0.borrow_mut().uncleared)
    }

    /// The number of blocks that tables hold.
    pub(super) fn held(&self) -> usize {
        let state = self.0.borrow();
        let unused = state.reserve.as_ref().map_or(0, Reserve::left);
        state.entries.len() - unused - state.free.len() - state.idle.len()
    }

    /// How many blocks there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.borrow().entries.len()
    }
}

impl State {
    /// Takes blocks from the reserve. Says whether it gave any.
    fn grow(&mut self) -> bool {
        let before = self.free.len();
        self.free.extend(self.reserve.iter_mut().flat_map(Reserve::take));
        self.free.len() > before
    }

    /// One more holder of a cached block.
    fn hold(&mut self, block: BlockId) {
        let entry = &mut self.entries[block.0 as usize];
        entry.holders += 1;
        if entry.holders == 1 {
            self.idle.remove(&entry.idle_since);
        }
    }

    /// Takes over the tail that follows `after`, if no table holds it and `tokens` begin with enough of its tokens. Returns
    /// the block and the number of common tokens.
    fn take_tail(&mut self, after: Link, tokens: &[TokenId]) -> Option<(BlockId, usize)> {
        let block = *self.tails.get(&after)?;
        let entry = &mut self.entries[block.0 as usize];
        let tail = entry.tail.as_ref().filter(|_| entry.holders == 0)?;
        let same = tail.tokens.iter().zip(tokens).take_while(|(held, token)| held == token).count();
        if same < MIN_TAIL {
            return None;
        }
        entry.tail = None;
        entry.holders = 1;
        self.idle.remove(&entry.idle_since);
        self.tails.remove(&after);
        Some((block, same))
    }

    /// Removes `block`, a tail, from the cache.
    fn forget_tail(&mut self, block: BlockId) {
        let entry = &mut self.entries[block.0 as usize];
        entry.tail = None;
        if entry.holders == 0 {
            self.idle.remove(&entry.idle_since);
            self.free.push(block);
        }
    }

    /// A free block for the namespace `owner`, evicting an idle one if need be.
    fn fresh(&mut self, owner: Root) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => self.idle.pop_first()?.1,
        };
        let entry = &mut self.entries[block.0 as usize];
        if let Some(name) = entry.name.take() {
            self.named.remove(&name);
        }
        if let Some(tail) = entry.tail.take() {
            self.tails.remove(&tail.after);
        }
        if entry.owner.is_some_and(|before| before != owner) {
            self.uncleared.push(block);
        }
        *entry = Entry { holders: 1, owner: Some(owner), ..Entry::default() };
        Some(block)
    }

    fn release(&mut self, block: BlockId) {
        let entry = &mut self.entries[block.0 as usize];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        if entry.name.is_some() || entry.tail.is_some() {
            self.clock += 1;
            entry.idle_since = self.clock;
            self.idle.insert(self.clock, block);
        } else {
            self.free.push(block);
        }
    }
}

impl Table {
    pub(super) fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// How many of the blocks, from the first on, were found in the cache.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// How many tokens, from the first on, were found in the cache.
    pub(super) fn cached(&self) -> usize {
        self.filled * BLOCK_TOKENS + self.tail
    }

    /// Caches block number `index`, which holds `tokens` and is not written by this table any more, as the tail after `after`.
    pub(super) fn publish_tail(&self, index: usize, after: Link, tokens: &[TokenId]) {
        let Some(&block) = self.blocks.get(index) else { return };
        if tokens.len() < MIN_TAIL {
            return;
        }
        let mut state = self.pool.0.borrow_mut();
        let tail = Tail { after, tokens: Zeroizing::new(tokens.to_vec()) };
        state.entries[block.0 as usize].tail = Some(tail);
        if let Some(before) = state.tails.insert(after, block).filter(|before| *before != block) {
            state.forget_tail(before);
        }
    }

    /// Caches the blocks from `first` on by `links`, one each: they are full and will not change.
    pub(super) fn publish(&self, first: usize, links: &[Link]) {
        let mut state = self.pool.0.borrow_mut();
        for (block, link) in self.blocks.iter().skip(first).zip(links) {
            // Two sequences may have computed the same text at once: the first one stays.
            if !state.named.contains_key(link) {
                state.named.insert(*link, *block);
                state.entries[block.0 as usize].name = Some(*link);
            }
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let mut state = self.pool.0.borrow_mut();
        // The end of a sequence is less likely to be used again than its beginning: it is evicted first.
        for block in self.blocks.iter().rev() {
            state.release(*block);
        }
    }
}

#[cfg(test)]
mod tests;
