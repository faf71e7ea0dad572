//! Device memory that recorded launches may still name.
//!
//! Memory that is dropped while a device has recordings is kept in the device's [`Retention`] and freed with the last of
//! them.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::rc::Rc;

/// Memory of one device that was dropped while recordings existed. Clones are the same list.
pub struct Retention<M>(Rc<RefCell<Retained<M>>>);

struct Retained<M> {
    recordings: usize,
    memory: Vec<M>,
}

/// A piece of device memory that is freed on drop, or later if there are recordings.
pub(super) struct Allocation<M> {
    memory: ManuallyDrop<M>,
    retention: Retention<M>,
}

/// One recording: memory is retained until it is dropped.
pub(super) struct Hold<M>(Retention<M>);

impl<M> Default for Retention<M> {
    fn default() -> Self {
        Self(Rc::new(RefCell::new(Retained { recordings: 0, memory: Vec::new() })))
    }
}

impl<M> Clone for Retention<M> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<M> Retention<M> {
    pub(super) fn hold(&self) -> Hold<M> {
        self.0.borrow_mut().recordings += 1;
        Hold(self.clone())
    }

    /// Whether both are the same list.
    pub(super) fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Frees `memory`, or keeps it while there are recordings.
    fn release(&self, memory: M) {
        let mut retained = self.0.borrow_mut();
        if retained.recordings > 0 {
            retained.memory.push(memory);
        }
    }
}

impl<M> Hold<M> {
    pub(super) fn retention(&self) -> &Retention<M> {
        &self.0
    }
}

impl<M> Drop for Hold<M> {
    fn drop(&mut self) {
        let mut retained = self.0.0.borrow_mut();
        retained.recordings -= 1;
        if retained.recordings == 0 {
            retained.memory.clear();
        }
    }
}

impl<M> Allocation<M> {
    pub(super) fn new(memory: M, retention: Retention<M>) -> Self {
        Self { memory: ManuallyDrop::new(memory), retention }
    }

    pub(super) fn get(&self) -> &M {
        &self.memory
    }

    pub(super) fn get_mut(&mut self) -> &mut M {
        &mut self.memory
    }
}

impl<M> Drop for Allocation<M> {
    fn drop(&mut self) {
        // SAFETY: it is taken here only, and not used afterwards.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        self.retention.release(memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_freed_with_the_last_recording() {
        let (retention, memory) = (Retention::default(), Rc::new(()));
        let allocate = || Allocation::new(Rc::clone(&memory), retention.clone());
        drop(allocate());
        assert_eq!(Rc::strong_count(&memory), 1, "freed at once without recordings");
        let (first, second) = (retention.hold(), retention.hold());
        drop(allocate());
        drop(first);
        assert_eq!(Rc::strong_count(&memory), 2, "the second recording may name it");
        drop(second);
        assert_eq!(Rc::strong_count(&memory), 1);
        drop(allocate());
        assert_eq!(Rc::strong_count(&memory), 1);
    }
}
