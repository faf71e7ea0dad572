//! Who has which block of keys and values, and which blocks may be used again: the prefix cache.
//!
//! A block is free, or held by tables, or idle: held by nobody but known by its name, so that a text that begins
//! in the same way need not be read again. When no block is free, the one that has been idle longest is given up.
//! What one namespace has left in a block is cleared before another is given it.
//!
//! Must not touch: what is in a block.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::chain::{Chain, Link, Root};
use codeseal_kernels::cpu::BlockId;

/// All blocks. Clones are the same pool.
#[derive(Clone)]
pub(super) struct BlockPool(Rc<RefCell<State>>);

/// The blocks of one sequence, given back when dropped.
pub(super) struct Table {
    blocks: Vec<BlockId>,
    /// How many of them, from the first on, hold what the chain says already.
    filled: usize,
    pool: BlockPool,
}

struct State {
    entries: Vec<Entry>,
    free: Vec<BlockId>,
    /// All blocks that have a name.
    named: HashMap<Link, BlockId>,
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
    /// Whose keys and values were last written here.
    owner: Option<Root>,
    /// The key in [`State::idle`].
    idle_since: u64,
}

impl BlockPool {
    pub(super) fn new(blocks: usize) -> Self {
        let ids = (0..blocks).rev().map(|block| BlockId(block as u32));
        Self(Rc::new(RefCell::new(State {
            entries: vec![Entry::default(); blocks],
            free: ids.collect(),
            named: HashMap::new(),
            idle: BTreeMap::new(),
            clock: 0,
            uncleared: Vec::new(),
        })))
    }

    /// So many blocks for a text of `chain`'s namespace; none if there are not so many. Blocks of the text's beginning that
    /// are known by the first `reusable` links of `chain` are among them.
    pub(super) fn acquire(&self, chain: &Chain, reusable: usize, blocks: usize) -> Option<Table> {
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
        while table.len() < blocks {
            table.push(state.fresh(chain.root())?);
        }
        Some(Table { blocks: table, filled, pool: self.clone() })
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
        if entry.name.is_some() {
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
        let table = pool.acquire(chain, usize::MAX, blocks).unwrap();
        table.publish(0, chain.links());
        table
    }

    #[test]
    fn blocks_are_held_by_one_table_and_come_back_when_it_is_dropped() {
        let (pool, root) = (BlockPool::new(5), root());
        let nothing = Chain::new(root);
        let first = pool.acquire(&nothing, 0, 3).unwrap();
        assert!(pool.acquire(&nothing, 0, 3).is_none(), "only two are left");
        let second = pool.acquire(&nothing, 0, 2).unwrap();
        assert_eq!((pool.held(), pool.len()), (5, 5));
        assert!(first.blocks().iter().all(|block| !second.blocks().contains(block)));
        drop(first);
        assert_eq!(pool.held(), 2);
        assert!(pool.acquire(&nothing, 0, 3).is_some());
    }

    #[test]
    fn a_text_that_begins_the_same_finds_its_blocks_while_and_after_they_are_held() {
        let (pool, root) = (BlockPool::new(8), root());
        let text = chain(root, 7, 3);
        let first = filled(&pool, &text, 4);
        for hold in [true, false] {
            let again = pool.acquire(&text, usize::MAX, 4).unwrap();
            assert_eq!((again.filled(), &again.blocks()[..3]), (3, &first.blocks()[..3]), "{hold}");
            assert_ne!(again.blocks()[3], first.blocks()[3]);
            assert_eq!(pool.held(), 5);
        }
        drop(first);
        assert_eq!(pool.held(), 0);
        assert_eq!(pool.acquire(&text, usize::MAX, 4).unwrap().filled(), 3);
        assert_eq!(pool.acquire(&text, 2, 4).unwrap().filled(), 2, "as many as may be used again");
        assert_eq!(pool.acquire(&chain(root, 8, 3), usize::MAX, 4).unwrap().filled(), 0);
    }

    #[test]
    fn another_namespace_finds_nothing_and_is_given_cleared_blocks() {
        let pool = BlockPool::new(4);
        let (mine, yours) = (root(), root());
        let table = filled(&pool, &chain(mine, 7, 3), 3);
        let blocks = table.blocks().to_vec();
        drop(table);
        let table = pool.acquire(&chain(yours, 7, 3), usize::MAX, 4).unwrap();
        assert_eq!(table.filled(), 0);
        let mut uncleared = pool.take_uncleared();
        uncleared.sort();
        let mut expected = blocks;
        expected.sort();
        assert_eq!(uncleared, expected, "the fourth was never written");
        drop(table);
        let _same = pool.acquire(&Chain::new(yours), 0, 4).unwrap();
        assert_eq!(pool.take_uncleared(), []);
    }

    #[test]
    fn the_longest_idle_is_given_up_first_and_the_end_of_a_text_before_its_beginning() {
        let (pool, root) = (BlockPool::new(6), root());
        let (old, new) = (chain(root, 1, 3), chain(root, 2, 3));
        drop(filled(&pool, &old, 3));
        drop(filled(&pool, &new, 3));
        drop(pool.acquire(&Chain::new(root), 0, 2).unwrap());
        assert_eq!(pool.acquire(&old, usize::MAX, 3).unwrap().filled(), 1);
        assert_eq!(pool.acquire(&new, usize::MAX, 3).unwrap().filled(), 3);
    }

    #[test]
    fn what_is_found_is_not_given_up_to_make_room_for_the_rest() {
        let (pool, root) = (BlockPool::new(4), root());
        let text = chain(root, 1, 3);
        drop(filled(&pool, &text, 3));
        let table = pool.acquire(&text, usize::MAX, 4).unwrap();
        assert_eq!(table.filled(), 3);
        assert!(pool.acquire(&text, usize::MAX, 4).is_none(), "three are shared and none is left");
        assert_eq!(pool.held(), 4);
    }
}
