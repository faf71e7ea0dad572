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
        let ids = (0..blocks).rev().map(|block| BlockId(block as u32));
        Self(Rc::new(RefCell::new(State {
            entries: vec![Entry::default(); blocks],
            free: ids.collect(),
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
        state.entries.len() - state.free.len() - state.idle.len()
    }

    /// How many blocks there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.borrow().entries.len()
    }
}

impl State {
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
mod tests {
    use super::*;
    use crate::protocol::Dek;
    use crate::token::TokenId;
    use codeseal_kernels::kv::BLOCK_TOKENS;

    fn root() -> Root {
        Root::new(&Dek::generate().unwrap().namespace())
    }

    /// The chain of `blocks` blocks of a text that begins with `first`.
    fn chain(root: Root, first: u32, blocks: usize) -> Chain {
        let tokens: Vec<_> = (0..blocks * BLOCK_TOKENS).map(|index| TokenId(first + index as u32)).collect();
        let mut chain = Chain::new(root);
        chain.extend(&tokens);
        chain
    }

    fn filled(pool: &BlockPool, chain: &Chain, blocks: usize) -> Table {
        let table = pool.acquire(chain, usize::MAX, &[], blocks).unwrap();
        table.publish(0, chain.links());
        table
    }

    #[test]
    fn blocks_are_held_by_one_table_and_come_back_when_it_is_dropped() {
        let (pool, root) = (BlockPool::new(5), root());
        let nothing = Chain::new(root);
        let first = pool.acquire(&nothing, 0, &[], 3).unwrap();
        assert!(pool.acquire(&nothing, 0, &[], 3).is_none(), "only two are left");
        let second = pool.acquire(&nothing, 0, &[], 2).unwrap();
        assert_eq!((pool.held(), pool.len()), (5, 5));
        assert!(first.blocks().iter().all(|block| !second.blocks().contains(block)));
        drop(first);
        assert_eq!(pool.held(), 2);
        assert!(pool.acquire(&nothing, 0, &[], 3).is_some());
    }

    #[test]
    fn a_text_that_begins_the_same_finds_its_blocks_while_and_after_they_are_held() {
        let (pool, root) = (BlockPool::new(8), root());
        let text = chain(root, 7, 3);
        let first = filled(&pool, &text, 4);
        for hold in [true, false] {
            let again = pool.acquire(&text, usize::MAX, &[], 4).unwrap();
            assert_eq!((again.filled(), &again.blocks()[..3]), (3, &first.blocks()[..3]), "{hold}");
            assert_ne!(again.blocks()[3], first.blocks()[3]);
            assert_eq!(pool.held(), 5);
        }
        drop(first);
        assert_eq!(pool.held(), 0);
        assert_eq!(pool.acquire(&text, usize::MAX, &[], 4).unwrap().filled(), 3);
        assert_eq!(pool.acquire(&text, 2, &[], 4).unwrap().filled(), 2, "as many as may be used again");
        assert_eq!(pool.acquire(&chain(root, 8, 3), usize::MAX, &[], 4).unwrap().filled(), 0);
    }

    #[test]
    fn another_namespace_finds_nothing_and_is_given_cleared_blocks() {
        let pool = BlockPool::new(4);
        let (mine, yours) = (root(), root());
        let table = filled(&pool, &chain(mine, 7, 3), 3);
        let blocks = table.blocks().to_vec();
        drop(table);
        let table = pool.acquire(&chain(yours, 7, 3), usize::MAX, &[], 4).unwrap();
        assert_eq!(table.filled(), 0);
        let mut uncleared = pool.take_uncleared();
        uncleared.sort();
        let mut expected = blocks;
        expected.sort();
        assert_eq!(uncleared, expected, "the fourth was never written");
        drop(table);
        let _same = pool.acquire(&Chain::new(yours), 0, &[], 4).unwrap();
        assert_eq!(pool.take_uncleared(), []);
    }

    #[test]
    fn the_longest_idle_is_given_up_first_and_the_end_of_a_text_before_its_beginning() {
        let (pool, root) = (BlockPool::new(6), root());
        let (old, new) = (chain(root, 1, 3), chain(root, 2, 3));
        drop(filled(&pool, &old, 3));
        drop(filled(&pool, &new, 3));
        drop(pool.acquire(&Chain::new(root), 0, &[], 2).unwrap());
        assert_eq!(pool.acquire(&old, usize::MAX, &[], 3).unwrap().filled(), 1);
        assert_eq!(pool.acquire(&new, usize::MAX, &[], 3).unwrap().filled(), 3);
    }

    #[test]
    fn what_is_found_is_not_given_up_to_make_room_for_the_rest() {
        let (pool, root) = (BlockPool::new(4), root());
        let text = chain(root, 1, 3);
        drop(filled(&pool, &text, 3));
        let table = pool.acquire(&text, usize::MAX, &[], 4).unwrap();
        assert_eq!(table.filled(), 3);
        assert!(pool.acquire(&text, usize::MAX, &[], 4).is_none(), "three are shared and none is left");
        assert_eq!(pool.held(), 4);
    }

    /// A table of one block of `chain` whose second one holds `tokens`.
    fn partly_filled(pool: &BlockPool, chain: &Chain, tokens: &[TokenId]) -> Table {
        let table = filled(pool, chain, 2);
        table.publish_tail(1, chain.before(1).unwrap(), tokens);
        table
    }

    /// The text of `chain(_, first, 1)` and what follows.
    fn text(first: u32, rest: &[TokenId]) -> Vec<TokenId> {
        (0..BLOCK_TOKENS).map(|index| TokenId(first + index as u32)).chain(rest.iter().copied()).collect()
    }

    #[test]
    fn a_block_that_is_filled_in_part_is_taken_over_as_far_as_the_texts_agree() {
        let (pool, root) = (BlockPool::new(4), root());
        let chain = chain(root, 7, 1);
        let rest: Vec<_> = (100..110).map(TokenId).collect();
        let first = partly_filled(&pool, &chain, &rest);
        let block = first.blocks()[1];
        let mut other = rest.clone();
        other[6] = TokenId(999);
        let acquire = |tokens: &[TokenId]| pool.acquire(&chain, 1, &text(7, tokens), 2).unwrap();
        assert_eq!(acquire(&rest).cached(), 32, "it is still held");
        drop(first);
        for (tokens, cached) in [(&rest[..3], 32), (&other[..], 38), (&rest, 32)] {
            let table = acquire(tokens);
            assert_eq!(table.cached(), cached, "{tokens:?}");
            assert!(cached == 32 || table.blocks()[1] == block);
        }
        assert_eq!(pool.held(), 0);
        assert!(pool.acquire(&Chain::new(root), 0, &[], 4).is_some(), "nothing is lost");
    }

    #[test]
    fn of_two_rests_after_one_block_the_latest_is_known() {
        let (pool, root) = (BlockPool::new(4), root());
        let chain = chain(root, 7, 1);
        let rests: [Vec<TokenId>; 2] = [100, 200].map(|first| (first..first + 9).map(TokenId).collect());
        let (first, second) =
            (partly_filled(&pool, &chain, &rests[0]), partly_filled(&pool, &chain, &rests[1]));
        drop((first, second));
        assert_eq!(pool.acquire(&chain, 1, &text(7, &rests[0]), 2).unwrap().cached(), 32);
        assert_eq!(pool.acquire(&chain, 1, &text(7, &rests[1]), 2).unwrap().cached(), 41);
        assert!(pool.acquire(&Chain::new(root), 0, &[], 4).is_some(), "nothing is lost");
    }

    #[test]
    fn a_rest_is_given_up_before_what_comes_before_it_and_never_found_by_another_namespace() {
        let (pool, mine, yours) = (BlockPool::new(4), root(), root());
        let rest: Vec<_> = (100..110).map(TokenId).collect();
        drop(partly_filled(&pool, &chain(mine, 7, 1), &rest));
        let table = pool.acquire(&chain(yours, 7, 1), 1, &text(7, &rest), 2).unwrap();
        assert_eq!(table.cached(), 0);
        let all = pool.acquire(&Chain::new(yours), 0, &[], 1).unwrap();
        drop((table, all));
        assert_eq!(pool.acquire(&chain(mine, 7, 1), 1, &text(7, &rest), 2).unwrap().cached(), 32);
    }
}
