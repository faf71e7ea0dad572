//! KV blocks that have addresses but no memory yet.
//!
//! The KV cache is checked against the available memory before it is set up, but its memory is taken when a block is first
//! written. By then something else may have taken it, and the system would end the process. So before blocks are handed out
//! for the first time, some at a time, the available memory is looked at again. If it does not suffice, the cache stays as
//! large as it is, and requests wait for blocks of others.

use std::ops::Range;

use codeseal_kernels::kv::BlockId;

/// About how many bytes of blocks are handed out at a time.
const BATCH_BYTES: u64 = 64 << 20;
/// What must be available beside them: for requests and answers.
const MARGIN_BYTES: u64 = 16 << 20;

/// Blocks that were never written.
pub(super) struct Reserve {
    left: Range<u32>,
    /// How many are handed out at a time.
    batch: u32,
    block_bytes: u64,
    available: Box<dyn Fn() -> u64>,
}

impl Reserve {
    /// `blocks` blocks of `block_bytes` each. `available` says how many bytes can be taken now.
    pub(super) fn new(blocks: usize, block_bytes: u64, available: impl Fn() -> u64 + 'static) -> Self {
        let batch = (BATCH_BYTES / block_bytes.max(1)).clamp(1, u64::from(u32::MAX)) as u32;
        Self { left: 0..blocks as u32, batch, block_bytes, available: Box::new(available) }
    }

    /// How many blocks there are still.
    pub(super) fn left(&self) -> usize {
        self.left.len()
    }

    /// Some blocks, the last one to be used first; none if none are left, or if there is no memory for them now.
    pub(super) fn take(&mut self) -> impl Iterator<Item = BlockId> + use<> {
        let count = self.batch.min(self.left.len() as u32);
        let needed = u64::from(count).saturating_mul(self.block_bytes).saturating_add(MARGIN_BYTES);
        let enough = count > 0 && (self.available)() >= needed;
        let end = if enough { self.left.start + count } else { self.left.start };
        let taken = self.left.start..end;
        self.left.start = end;
        taken.rev().map(BlockId)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn blocks_are_handed_out_while_there_is_memory_for_them() {
        let available = Rc::new(Cell::new(u64::MAX));
        let now = Rc::clone(&available);
        let mut reserve = Reserve::new(10, BATCH_BYTES / 4, move || now.get());
        let mut take = || reserve.take().map(|block| block.0).collect::<Vec<_>>();
        assert_eq!(take(), [3, 2, 1, 0]);
        available.set(BATCH_BYTES + MARGIN_BYTES - 1);
        assert_eq!(take(), [0; 0]);
        available.set(BATCH_BYTES + MARGIN_BYTES);
        assert_eq!(take(), [7, 6, 5, 4]);
        available.set(BATCH_BYTES / 2 + MARGIN_BYTES);
        assert_eq!((take(), take()), (vec![9, 8], vec![]));
    }

    #[test]
    fn blocks_larger_than_a_batch_come_one_by_one() {
        let mut reserve = Reserve::new(2, u64::MAX, || u64::MAX);
        assert_eq!(reserve.take().count(), 1);
    }
}
