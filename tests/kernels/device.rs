//! A device that is the emulator: memory of the exact size, full of NaN until it is written.

use std::alloc::{Layout, alloc, dealloc};

use codeseal::kernels::cuda::{Arg, Buffer, Device, DeviceError, Element, Launch, Shape};
use kernels_emu::Schedule;

/// What every byte is that nobody has written: NaN in every float, and an index that faults.
const POISON: u8 = 0xff;

pub(crate) struct Emulator;

impl Emulator {
    /// Runs `test` under each kind of schedule.
    pub(crate) fn under_each_schedule(seed: u64, mut test: impl FnMut(&Self)) {
        for schedule in Schedule::each(seed) {
            kernels_emu::schedule(schedule, 0);
            test(&Self);
        }
    }

    /// A buffer of `numbers`.
    pub(crate) fn put<T: Element>(&self, numbers: &[T]) -> Buffer<Self, T> {
        Buffer::copied(self, numbers).unwrap()
    }

    /// A buffer that nobody has written.
    pub(crate) fn room<T: Element>(&self, length: usize) -> Buffer<Self, T> {
        Buffer::new(self, length).unwrap()
    }
}

pub(crate) struct Memory {
    start: *mut u8,
    layout: Layout,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        #[allow(unsafe_code)]
        unsafe {
            dealloc(self.start, self.layout);
        }
    }
}

impl Launch for Emulator {
    // SAFETY: as the caller's; launches have run when this returns.
    #[allow(unsafe_code)]
    unsafe fn launch(&self, kernel: &'static str, shape: Shape, args: &[Arg]) -> Result<(), DeviceError> {
        let args: Vec<_> =
            args.iter().map(|arg| kernels_emu::Arg { bits: arg.bits(), size: arg.bytes() }).collect();
        // SAFETY: the caller vouches for the addresses, which are of this process.
        unsafe { kernels_emu::launch(kernel, shape.grid, [shape.threads, 1, 1], shape.shared_bytes, &args) }
            .map_err(DeviceError::Failed)
    }
}

impl Device for Emulator {
    type Memory = Memory;

    fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        let layout = Layout::from_size_align(bytes.max(1), 256).unwrap();
        // SAFETY: the size is not 0, and what is written lies within it.
        #[allow(unsafe_code)]
        unsafe {
            let start = alloc(layout);
            if start.is_null() {
                return Err(DeviceError::OutOfMemory(bytes));
            }
            start.write_bytes(POISON, bytes);
            Ok(Memory { start, layout })
        }
    }

    fn address(memory: &Memory) -> u64 {
        memory.start as u64
    }

    fn write(&self, memory: &mut Memory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.layout.size());
        // SAFETY: it lies within the memory, which is another one than that of `bytes`.
        #[allow(unsafe_code)]
        unsafe {
            memory.start.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Ok(())
    }

    fn read(&self, memory: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.layout.size());
        // SAFETY: as for writing.
        #[allow(unsafe_code)]
        unsafe {
            memory.start.add(at).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }
}
