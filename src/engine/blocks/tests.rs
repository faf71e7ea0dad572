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
    let (first, second) = (partly_filled(&pool, &chain, &rests[0]), partly_filled(&pool, &chain, &rests[1]));
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

#[test]
fn blocks_of_the_reserve_are_used_before_cached_ones_are_evicted_and_only_while_there_is_memory() {
    let memory = Rc::new(std::cell::Cell::new(true));
    let now = Rc::clone(&memory);
    let reserve = Reserve::new(6, u64::MAX / 2, move || if now.get() { u64::MAX } else { 0 });
    let (pool, root) = (BlockPool::reserving(6, Some(reserve)), root());
    assert_eq!(pool.held(), 0);
    let text = chain(root, 7, 2);
    drop(filled(&pool, &text, 2));
    let other = pool.acquire(&chain(root, 9, 2), usize::MAX, &[], 2).unwrap();
    assert_eq!((other.blocks(), pool.held()), (&[BlockId(3), BlockId(2)][..], 2));
    memory.set(false);
    assert_eq!(pool.acquire(&text, usize::MAX, &[], 2).unwrap().filled(), 2, "nothing was evicted");
    assert!(pool.acquire(&chain(root, 9, 2), usize::MAX, &[], 3).is_none(), "only two are not held");
    let evicting = pool.acquire(&chain(root, 9, 2), usize::MAX, &[], 2).unwrap();
    assert_eq!(pool.held(), 4);
    drop(evicting);
    memory.set(true);
    assert!(pool.acquire(&chain(root, 9, 2), usize::MAX, &[], 4).is_some());
}
