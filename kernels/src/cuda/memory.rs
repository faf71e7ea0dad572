//! Device memory with types and bounds, which makes launchers safe to call.
//!
//! A view borrows its buffer, so nothing is read and written by the same launch, and nothing is given back before a
//! launch was handed to the device; devices give memory back in the order of launches.

use std::marker::PhantomData;
use std::ops::Range;

use super::launch::{Arg, DeviceError, Launch};
use super::retention::{Allocation, Retention};

/// A device: it runs kernels, and has memory of its own.
pub trait Device: Launch {
    /// A piece of its memory. Given back when dropped, after what was launched before.
    type Memory;
    /// A point in the order of launches (a CUDA event).
    type Event;
    /// Launches that were recorded, to be replayed as one (a CUDA graph).
    type Recording;

    /// What it is called, for reports.
    fn name(&self) -> String;

    /// For which devices the kernels that run on it were made, such as `sm_90`; for reports.
    fn kernels(&self) -> String;

    /// Whether its tensor cores multiply bf16. Where they do not, f16 takes its place.
    fn has_bf16(&self) -> bool;

    /// Free memory, in bytes.
    ///
    /// # Errors
    /// The device does not say.
    fn free_bytes(&self) -> Result<u64, DeviceError>;

    /// Takes `bytes` of memory, on a boundary of 256. What is in it is not known.
    ///
    /// # Errors
    /// There is too little.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, DeviceError>;

    /// Where `memory` begins.
    fn address(memory: &Self::Memory) -> u64;

    /// Copies `bytes` to `memory`, from its byte `at` on, which is so much at least.
    ///
    /// # Errors
    /// The copy failed.
    fn write(&self, memory: &mut Self::Memory, at: usize, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies to `bytes` from `memory`, from its byte `at` on, when all that was launched has run.
    ///
    /// # Errors
    /// The copy failed, or what was launched before.
    fn read(&self, memory: &Self::Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// As [`Device::read`], but waits only for what was launched before `event`.
    ///
    /// # Errors
    /// As [`Device::read`].
    fn read_after(
        &self,
        event: &Self::Event,
        memory: &Self::Memory,
        at: usize,
        bytes: &mut [u8],
    ) -> Result<(), DeviceError>;

    /// Overwrites `bytes` of `memory`, from its byte `at` on, with zeros, after what was launched before.
    ///
    /// # Errors
    /// It cannot be started.
    fn zero(&self, memory: &mut Self::Memory, at: usize, bytes: usize) -> Result<(), DeviceError>;

    /// Copies the first `bytes` of `from` to `to`, after what was launched before.
    ///
    /// # Errors
    /// It cannot be started.
    fn copy(&self, from: &Self::Memory, to: &mut Self::Memory, bytes: usize) -> Result<(), DeviceError>;

    /// Records an event after what has been launched.
    ///
    /// # Errors
    /// The device failed.
    fn record_event(&self) -> Result<Self::Event, DeviceError>;

    /// Memory that recordings may still name, the same list for every call.
    fn retention(&self) -> Retention<Self::Memory>;

    /// Records what `launches` would launch, and runs none of it. Nothing is copied meanwhile. Use [`super::Recorded`].
    ///
    /// # Errors
    /// `launches` fails, or the device cannot record: it is as before, and the same launches can be made one by one.
    fn record(
        &self,
        launches: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Self::Recording, DeviceError>;

    /// The number of launches in a recording.
    fn recorded(recording: &Self::Recording) -> usize;

    /// Launches again what was recorded.
    ///
    /// # Errors
    /// As [`Launch::launch`].
    ///
    /// # Safety
    /// All memory that was named while it was recorded is still allocated.
    unsafe fn replay(&self, recording: &Self::Recording) -> Result<(), DeviceError>;
}

/// A number that host and device write alike.
pub trait Element: Copy + Default {
    /// How many bytes it takes.
    const BYTES: usize = size_of::<Self>();

    /// Appends its bytes, the lowest first.
    fn append_to(self, bytes: &mut Vec<u8>);

    /// What the first of `bytes` are.
    fn read_from(bytes: &[u8]) -> Self;
}

macro_rules! elements {
    ($($number:ty),*) => {$(
        impl Element for $number {
            fn append_to(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }

            fn read_from(bytes: &[u8]) -> Self {
                bytes.first_chunk().map_or_else(Self::default, |bytes| Self::from_le_bytes(*bytes))
            }
        }
    )*};
}
elements!(i8, u8, u16, i32, u32, u64, f32, half::bf16, half::f16);

/// An array in a device's memory.
pub struct Buffer<D: Device, T> {
    memory: Allocation<D::Memory>,
    length: usize,
    numbers: PhantomData<T>,
}

impl<D: Device, T: Element> Buffer<D, T> {
    /// Room for `length` numbers. What is in it is not known.
    ///
    /// # Errors
    /// The device has too little memory.
    pub fn new(device: &D, length: usize) -> Result<Self, DeviceError> {
        let bytes = length.checked_mul(T::BYTES).ok_or(DeviceError::OutOfMemory(usize::MAX))?;
        let memory = Allocation::new(device.allocate(bytes)?, device.retention());
        Ok(Self { memory, length, numbers: PhantomData })
    }

    /// The numbers `from`, copied.
    ///
    /// # Errors
    /// As [`Buffer::new`], or the copy failed.
    pub fn copied(device: &D, from: &[T]) -> Result<Self, DeviceError> {
        let mut buffer = Self::new(device, from.len())?;
        buffer.write(device, 0, from)?;
        Ok(buffer)
    }

    /// Overwrites the numbers from `first` on.
    ///
    /// # Errors
    /// The range is out of bounds, or the copy failed.
    pub fn write(&mut self, device: &D, first: usize, from: &[T]) -> Result<(), DeviceError> {
        self.view().part(first..first.saturating_add(from.len()))?;
        let mut bytes = Vec::with_capacity(from.len() * T::BYTES);
        from.iter().for_each(|number| number.append_to(&mut bytes));
        device.write(self.memory.get_mut(), first * T::BYTES, &bytes)
    }

    /// Overwrites the numbers from `first` on with those that `bytes` are, the lowest byte of each first.
    ///
    /// # Errors
    /// The range is out of bounds, or the copy failed.
    pub fn write_bytes(&mut self, device: &D, first: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.view().part(first..first.saturating_add(bytes.len().div_ceil(T::BYTES)))?;
        device.write(self.memory.get_mut(), first * T::BYTES, bytes)
    }

    /// Overwrites the numbers in `range` with zeros.
    ///
    /// # Errors
    /// The range is out of bounds, or the device failed.
    pub fn zero(&mut self, device: &D, range: Range<usize>) -> Result<(), DeviceError> {
        self.view().part(range.clone())?;
        device.zero(self.memory.get_mut(), range.start * T::BYTES, range.len() * T::BYTES)
    }

    /// All numbers, when all that was launched has run.
    ///
    /// # Errors
    /// The copy failed, or what was launched before.
    pub fn read(&self, device: &D) -> Result<Vec<T>, DeviceError> {
        self.read_part(device, 0..self.length)
    }

    /// The numbers in `range`, when all that was launched has run.
    ///
    /// # Errors
    /// The range is out of bounds, or the copy failed, or a launch before it.
    pub fn read_part(&self, device: &D, range: Range<usize>) -> Result<Vec<T>, DeviceError> {
        self.view().part(range.clone())?;
        let mut bytes = vec![0; range.len() * T::BYTES];
        device.read(self.memory.get(), range.start * T::BYTES, &mut bytes)?;
        Ok(bytes.chunks_exact(T::BYTES).map(T::read_from).collect())
    }

    /// As [`Buffer::read_part`], but waits only for what was launched before `event`.
    ///
    /// # Errors
    /// As [`Buffer::read_part`].
    pub fn read_part_after(
        &self,
        device: &D,
        event: &D::Event,
        range: Range<usize>,
    ) -> Result<Vec<T>, DeviceError> {
        self.view().part(range.clone())?;
        let mut bytes = vec![0; range.len() * T::BYTES];
        device.read_after(event, self.memory.get(), range.start * T::BYTES, &mut bytes)?;
        Ok(bytes.chunks_exact(T::BYTES).map(T::read_from).collect())
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The numbers, for a kernel to read.
    pub fn view(&self) -> View<'_, T> {
        View { address: D::address(self.memory.get()), length: self.length, borrowed: PhantomData }
    }

    /// The numbers, for a kernel to write.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: D::address(self.memory.get()), length: self.length, borrowed: PhantomData }
    }
}

/// Numbers that a kernel may read.
pub struct View<'a, T> {
    address: u64,
    length: usize,
    borrowed: PhantomData<&'a T>,
}

/// Numbers that a kernel may read and write.
pub struct ViewMut<'a, T> {
    address: u64,
    length: usize,
    borrowed: PhantomData<&'a mut T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T: Element> View<'a, T> {
    /// Those in `range`.
    ///
    /// # Errors
    /// The range is out of bounds.
    pub fn part(self, range: Range<usize>) -> Result<Self, DeviceError> {
        let (address, length) = part::<T>(self.address, self.length, range)?;
        Ok(Self { address, length, borrowed: PhantomData })
    }

    /// The number of elements.
    pub fn len(self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Their address, as a kernel takes it.
    pub fn arg(self) -> Arg {
        Arg::address(self.address)
    }
}

impl<'a> View<'a, u32> {
    /// The same bits as signed numbers.
    pub fn signed(self) -> View<'a, i32> {
        View { address: self.address, length: self.length, borrowed: PhantomData }
    }
}

impl<'a> ViewMut<'a, u32> {
    /// The same bits as signed numbers.
    pub fn signed(self) -> ViewMut<'a, i32> {
        ViewMut { address: self.address, length: self.length, borrowed: PhantomData }
    }
}

impl<'a, T: Element> ViewMut<'a, T> {
    /// Those in `range`.
    ///
    /// # Errors
    /// The range is out of bounds.
    pub fn part(self, range: Range<usize>) -> Result<Self, DeviceError> {
        let (address, length) = part::<T>(self.address, self.length, range)?;
        Ok(Self { address, length, borrowed: PhantomData })
    }

    /// Those before `at`, and those from there on.
    ///
    /// # Errors
    /// The range is out of bounds.
    pub fn split_at(self, at: usize) -> Result<(Self, Self), DeviceError> {
        let (first, _) = part::<T>(self.address, self.length, 0..at)?;
        let (second, rest) = part::<T>(self.address, self.length, at..self.length)?;
        let part = |address, length| Self { address, length, borrowed: PhantomData };
        Ok((part(first, at), part(second, rest)))
    }

    /// The same numbers, for a while.
    pub fn again(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address, length: self.length, borrowed: PhantomData }
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn arg(&self) -> Arg {
        Arg::address(self.address)
    }
}

fn part<T: Element>(address: u64, length: usize, range: Range<usize>) -> Result<(u64, usize), DeviceError> {
    if range.start > range.end || range.end > length {
        return Err(DeviceError::Failed(format!("{range:?} is not part of {length} numbers")));
    }
    Ok((address + (range.start * T::BYTES) as u64, range.len()))
}
