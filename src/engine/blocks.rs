//! Who has which block of keys and values, and which blocks may be used again: the prefix cache.
//!
//! A block is free, or held by tables, or idle: held by nobody but known by its name, so that a text that begins
//! in the same way need not be read again. The last block of a text, which is filled in part, is known by the name of the
//! block before it and its tokens; a text that begins with some of these takes it over and goes on in it, so it is never
//! shared. When no block is free, the one that has been idle longest is given up.
//! What one namespace has left in a block is cleared before another is given it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use codeseal_kernels::cpu::{BLOCK_TOKENS, BlockId};
use zeroize::Zeroizing;

use super::chain::{Chain, Link, Root};
use crate::tokenizer::TokenId;

/// The fewest tokens for which a block that is filled in part is kept, and taken over: taking it over for one or two
/// tokens would cost another text all the others.
const LEAST_REST: usize = 4;

/// All blocks. Clones are the same pool.
#[derive(Clone)]
pub(super) struct BlockPool(Rc<RefCell<State>>);

/// The blocks of one sequence, given back when dropped.
pub(super) struct Table {
    blocks: Vec<BlockId>,
    /// How many of them, from the first on, hold what the chain says already.
    filled: usize,
    /// How many tokens the block behind those holds already.
    rest: usize,
    pool: BlockPool,
}

struct State {
    entries: Vec<Entry>,
    free: Vec<BlockId>,
    /// All blocks that have a name.
    named: HashMap<Link, BlockId>,
    /// The blocks that are filled in part, by the name of the block before; of several that follow one block the latest.
    rests: HashMap<Link, BlockId>,
    /// Those of them that nobody holds, the longest idle first.
    idle: BTreeMap<u64, BlockId>,
    /// Counts the blocks that have become idle.
    clock: u64,
    /// Blocks that must be cleared before they are written.
    uncleared: Vec<BlockId>,
}

#[derive(Clone, Default)]
struct Entry {
    holders: u32,
    name: Option<Link>,
    /// Never beside a name.
    rest: Option<Rest>,
    /// Whose keys and values were last written here.
    owner: Option<Root>,
    /// The key in [`State::idle`].
    idle_since: u64,
}

/// What a block holds that is filled in part.
#[derive(Clone)]
struct Rest {
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
            rests: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            uncleared: Vec::new(),
        })))
    }

    /// So many blocks for a text of `chain`'s namespace; none if there are not so many. Blocks of the text's beginning that
    /// are known by the first `reusable` links of `chain` are among them, and then one that is filled in part with what
    /// `tokens`, the text from its beginning on, goes on with.
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
        let mut rest = 0;
        if filled < blocks
            && let Some(after) = chain.before(filled)
            && let Some((block, length)) =
                state.take_rest(after, tokens.get(filled * BLOCK_TOKENS..).unwrap_or_default())
        {
            table.push(block);
            rest = length;
        }
        while table.len() < blocks {
            table.push(state.fresh(chain.root())?);
        }
        Some(Table { blocks: table, filled, rest, pool: self.clone() })
    }

    /// The blocks that must be cleared before the next step.
    pub(super) fn take_uncleared(&self) -> Vec<BlockId> {
        std::mem::take(&mut self.0.borrow_mut().uncleared)
    }

    /// How many blocks tables hold.
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
    /// One more holder for a block that has a name.
    fn hold(&mut self, block: BlockId) {
        let entry = &mut self.entries[block.0 as usize];
        entry.holders += 1;
        if entry.holders == 1 {
            self.idle.remove(&entry.idle_since);
        }
    }

    /// Takes over the block that follows `after`, if nobody holds it and `tokens` begin with enough of what it holds.
    /// Returns with how many.
    fn take_rest(&mut self, after: Link, tokens: &[TokenId]) -> Option<(BlockId, usize)> {
        let block = *self.rests.get(&after)?;
        let entry = &mut self.entries[block.0 as usize];
        let rest = entry.rest.as_ref().filter(|_| entry.holders == 0)?;
        let same = rest.tokens.iter().zip(tokens).take_while(|(held, token)| held == token).count();
        if same < LEAST_REST {
            return None;
        }
        entry.rest = None;
        entry.holders = 1;
        self.idle.remove(&entry.idle_since);
        self.rests.remove(&after);
        Some((block, same))
    }

    /// `block` is not known by what it holds any more.
    fn forget_rest(&mut self, block: BlockId) {
        let entry = &mut self.entries[block.0 as usize];
        entry.rest = None;
        if entry.holders == 0 {
            self.idle.remove(&entry.idle_since);
            self.free.push(block);
        }
    }

    /// A block for new text of `owner`.
    fn fresh(&mut self, owner: Root) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => self.idle.pop_first()?.1,
        };
        let entry = &mut self.entries[block.0 as usize];
        if let Some(name) = entry.name.take() {
            self.named.remove(&name);
        }
        if let Some(rest) = entry.rest.take() {
            self.rests.remove(&rest.after);
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
        if entry.name.is_some() || entry.rest.is_some() {
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

    /// How many of the blocks, from the first on, were found filled.
    pub(super) fn filled(&self) -> usize {
        self.filled
    }

    /// How many tokens, from the first on, need not be read.
    pub(super) fn cached(&self) -> usize {
        self.filled * BLOCK_TOKENS + self.rest
    }

    /// Makes the block number `index`, which holds `tokens` and is written no more by this table, known to texts that go on
    /// after `after`.
    pub(super) fn leave_rest(&self, index: usize, after: Link, tokens: &[TokenId]) {
        let Some(&block) = self.blocks.get(index) else { return };
        if tokens.len() < LEAST_REST {
            return;
        }
        let mut state = self.pool.0.borrow_mut();
        let rest = Rest { after, tokens: Zeroizing::new(tokens.to_vec()) };
        state.entries[block.0 as usize].rest = Some(rest);
        if let Some(before) = state.rests.insert(after, block).filter(|before| *before != block) {
            state.forget_rest(before);
        }
    }

    /// Makes the blocks from the `first` on known by `links`, one each: they are filled and will not change.
    pub(super) fn publish(&self, first: usize, links: &[Link]) {
        let mut state = self.pool.0.borrow_mut();
        for (block, link) in self.blocks.iter().skip(first).zip(links) {
            // The same text may have been read twice at once: the first one stays.
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
        // The end of a text is of less use than its beginning: it is given up first.
        for block in self.blocks.iter().rev() {
            state.release(*block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dek;
    use crate::tokenizer::TokenId;
    use codeseal_kernels::cpu::BLOCK_TOKENS;

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
        table.leave_rest(1, chain.before(1).unwrap(), tokens);
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
