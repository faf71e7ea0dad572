//! Zeroed memory for weights: aligned to cache lines, and in huge pages where the OS provides them.
//!
//! A load that lies across two lines costs twice, and a model is read from end to end for every token.
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use super::simd::Lane;

/// The size of a cache line, to which memory is aligned.
const LINE_BYTES: usize = 64;
/// What the memory is made of.
type Unit = u128;
/// Units of a line.
const LINE: usize = LINE_BYTES / size_of::<Unit>();
/// Bytes from which on huge pages are asked for.
const HUGE: usize = 4 << 20;

/// Types of which all bytes may be anything, and which a line aligns.
///
/// # Safety
/// Any bytes are a value, there is no padding, and the alignment is at most [`LINE_BYTES`].
pub(super) unsafe trait Plain: Copy + Send + Sync {}

// SAFETY: the bytes of numbers may be anything.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}
// SAFETY: an array is its elements without anything in between.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A slice of numbers, at first zeros, the first of which begins a cache line.
pub(super) struct Memory<T> {
    units: Vec<Unit>,
    /// Units before the first line.
    skip: usize,
    length: usize,
    elements: PhantomData<T>,
}

impl<T: Plain> Memory<T> {
    /// Zeros. Memory is taken when they are overwritten.
    pub(super) fn zeros(length: usize) -> Self {
        let bytes = length * size_of::<T>();
        let units: Vec<Unit> = vec![0; bytes.div_ceil(size_of::<Unit>()) + LINE];
        let skip = units.as_ptr().align_offset(LINE_BYTES).min(LINE);
        let memory = Self { units, skip, length, elements: PhantomData };
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            memory.ask_for_huge_pages();
        }
        memory
    }

    /// Where the system cannot, all is as before.
    #[cfg(target_os = "linux")]
    fn ask_for_huge_pages(&self) {
        let page = rustix::param::page_size();
        let start = self.units.as_ptr().cast::<u8>();
        let skip = start.align_offset(page);
        let length = (size_of_val(self.units.as_slice()) - skip) / page * page;
        // SAFETY: the pages lie within the vector, and the advice changes nothing that can be read.
        let _refused = unsafe {
            rustix::mm::madvise(start.add(skip).cast_mut().cast(), length, rustix::mm::Advice::LinuxHugepage)
        };
    }
}

impl<T: Plain> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: behind `skip` units, which align it, the vector has room for `length` elements, and any bytes are some.
        unsafe { std::slice::from_raw_parts(self.units.as_ptr().add(self.skip).cast(), self.length) }
    }
}

impl<T: Plain> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.units.as_mut_ptr().add(self.skip).cast(), self.length) }
    }
}

/// The bytes of `all`.
pub(super) fn bytes<T: Plain>(all: &[T]) -> &[u8] {
    // SAFETY: the bytes are those of the slice, without padding.
    unsafe { std::slice::from_raw_parts(all.as_ptr().cast(), size_of_val(all)) }
}

/// Numbers of four bytes, or two of two, as four bytes each.
pub(super) fn words<T: Plain>(all: &mut [Lane<T>]) -> &mut [Lane<[u8; 4]>] {
    const { assert!(size_of::<T>() == size_of::<[u8; 4]>()) };
    // SAFETY: both are as long, any bytes are values of either, and bytes need no alignment.
    unsafe { std::slice::from_raw_parts_mut(all.as_mut_ptr().cast(), all.len()) }
}

impl<T: Plain> Clone for Memory<T> {
    fn clone(&self) -> Self {
        let mut clone = Self::zeros(self.length);
        clone.copy_from_slice(self);
        clone
    }
}

impl<T> std::fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} elements", self.length)
    }
}
