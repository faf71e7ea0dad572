//! A bound on connections: when all are taken, the connection that has been idle longest is closed (LRU).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections that are open.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    open: Arc<Mutex<VecDeque<Entry>>>,
    most: usize,
}

#[derive(Debug)]
struct Entry {
    number: usize,
    activity: Activity,
    close: CancellationToken,
}

/// How many requests of a connection are being answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activity(Arc<AtomicUsize>);

/// A request that is being answered, to its last byte.
#[derive(Debug)]
pub(crate) struct Busy(Activity);

/// One connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    number: usize,
    pub(super) activity: Activity,
    pub(super) close: CancellationToken,
}

impl Slots {
    /// At most `most` connections.
    pub(super) fn new(most: usize) -> Self {
        Self { open: Arc::default(), most }
    }

    /// A place for the next connection. If all are taken, the oldest one that is not answering a request is closed;
    /// if all are answering, there is none.
    pub(super) fn take(&self) -> Option<Slot> {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= self.most {
            let idle = open.iter().position(|entry| entry.activity.is_idle())?;
            if let Some(entry) = open.remove(idle) {
                entry.close.cancel();
            }
        }
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let (activity, close) = (Activity::default(), CancellationToken::new());
        open.push_back(Entry { number, activity: activity.clone(), close: close.clone() });
        Some(Slot { slots: self.clone(), number, activity, close })
    }
}

impl Activity {
    /// Counts a request for as long as the value lives.
    pub(crate) fn begin(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.slots.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|entry| entry.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_does_nothing_makes_room() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take().unwrap(), slots.take().unwrap());
        let busy = first.activity.begin();
        let third = slots.take().unwrap();
        assert!(!first.close.is_cancelled() && second.close.is_cancelled());
        let third_busy = third.activity.begin();
        assert!(slots.take().is_none(), "all are answering");
        drop(busy);
        assert!(slots.take().is_some() && first.close.is_cancelled());
        drop(third_busy);
    }
}
