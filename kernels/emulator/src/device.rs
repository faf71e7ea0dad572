//! A device that is the emulator: memory of the exact size, full of NaN until it is written.
//!
//! What it has and what goes wrong is set for each thread, as is the emulator's schedule: an engine's device lives on the
//! engine's thread.

use std::alloc::{Layout, alloc, dealloc};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Schedule;
use codeseal_kernels::cuda::{Arg, Buffer, Device, DeviceError, Element, Launch, Retention, Shape};

/// The value of every byte that was not written: NaN in every float, and an index that faults.
const POISON: u8 = 0xff;

/// The emulated device of the calling thread.
pub struct Emulator;

/// What a device has, and what goes wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// Whether it multiplies bf16; otherwise f16.
    pub has_bf16: bool,
    /// Memory that it reports as free, in bytes.
    pub free_bytes: u64,
    /// Whether it can record launches.
    pub records: bool,
    /// A kernel that does nothing.
    pub idle: Option<&'static str>,
    /// After how many launches the next one fails.
    pub lives_for: u64,
    /// Fails once this is set, by any thread.
    pub dies: Option<&'static AtomicBool>,
    /// A fault to inject.
    pub fault: Option<Fault>,
}

/// A silent fault of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// One copy to the device is lost, after this many that are not.
    LosesWrite(u64),
    /// A recording is launched once for each that was asked for, and once more.
    ReplaysTwice,
    /// One replay is lost, after this many that are not.
    LosesReplay(u64),
    /// What is recorded runs too.
    RunsWhatItRecords,
    /// Nothing is overwritten with zeros any more, after this many times.
    StopsZeroing(u64),
    /// What is read after an event is what was read after the event before.
    ReadsLastStep,
}

impl Traits {
    /// A device without faults.
    pub const SOUND: Self = Self {
        has_bf16: true,
        free_bytes: 8 << 20,
        records: true,
        idle: None,
        lives_for: u64::MAX,
        dies: None,
        fault: None,
    };

    /// A device with one fault.
    pub fn with(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::SOUND }
    }
}

/// What was done on the device of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Launches by themselves.
    pub launches: u64,
    /// Recordings launched.
    pub replays: u64,
    /// Copies to the device.
    pub writes: u64,
    /// Recordings made.
    pub recordings: u64,
}

struct Thread {
    traits: Traits,
    done: Done,
    /// What is being recorded.
    recording: Option<Vec<Recorded>>,
    /// What was read after the last event.
    last_read: Vec<u8>,
}

impl Thread {
    /// Whether this is the one time that something gets lost; `left` are the times before.
    fn loses(&mut self, left: impl Fn(Fault) -> Option<u64>, again: impl Fn(u64) -> Fault) -> bool {
        let left = self.traits.fault.and_then(left);
        match left {
            None => false,
            Some(left) => {
                self.traits.fault = left.checked_sub(1).map(again);
                left == 0
            }
        }
    }
}

#[derive(Clone)]
struct Recorded {
    kernel: &'static str,
    shape: Shape,
    args: Vec<Arg>,
}

/// Launches, to be repeated.
pub struct Recording(Vec<Recorded>);

thread_local! {
    static RETENTION: Retention<Memory> = Retention::default();
    static THREAD: RefCell<Thread> =
        const { RefCell::new(Thread {
            traits: Traits::SOUND,
            done: Done { launches: 0, replays: 0, writes: 0, recordings: 0 },
            recording: None,
            last_read: Vec::new(),
        }) };
}

fn with<R>(look: impl FnOnce(&mut Thread) -> R) -> R {
    THREAD.with_borrow_mut(look)
}

impl Emulator {
    /// The calling thread's device from now on.
    pub fn with(traits: Traits) -> Self {
        with(|thread| thread.traits = traits);
        Self
    }

    /// What was done on the calling thread's device.
    pub fn done() -> Done {
        with(|thread| thread.done)
    }

    fn run(recorded: &Recorded) -> Result<(), DeviceError> {
        let Recorded { kernel, shape, args } = recorded;
        let mut idle = false;
        with(|thread| {
            let lives = thread.traits.lives_for.checked_sub(1);
            idle = thread.traits.idle == Some(*kernel);
            let dead = thread.traits.dies.is_some_and(|dies| dies.load(Ordering::SeqCst));
            let lives = lives.filter(|_| !dead);
            thread.traits.lives_for = lives.ok_or(DeviceError::Failed("as told".to_owned()))?;
            Ok(())
        })?;
        if idle {
            return Ok(());
        }
        let args: Vec<_> =
            args.iter().map(|arg| crate::Arg { bits: arg.bits(), size: arg.bytes() }).collect();
        // SAFETY: the caller of the launch vouched for the addresses, which are of this process.
        unsafe { crate::launch(kernel, shape.grid, [shape.threads, 1, 1], shape.shared_bytes, &args) }
            .map_err(DeviceError::Failed)
    }

    /// Runs `test` under each kind of schedule.
    pub fn under_each_schedule(seed: u64, mut test: impl FnMut(&Self)) {
        for schedule in Schedule::each(seed) {
            crate::schedule(schedule, 0);
            test(&Self);
        }
    }

    /// A buffer of `numbers`.
    pub fn put<T: Element>(&self, numbers: &[T]) -> Buffer<Self, T> {
        Buffer::copied(self, numbers).unwrap()
    }

    /// A buffer that was not written.
    pub fn room<T: Element>(&self, length: usize) -> Buffer<Self, T> {
        Buffer::new(self, length).unwrap()
    }
}

/// Memory of the device, in the host's own.
pub struct Memory {
    start: *mut u8,
    layout: Layout,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe {
            dealloc(self.start, self.layout);
        }
    }
}

impl Launch for Emulator {
    // SAFETY: as the caller's; launches have run when this returns.
    unsafe fn launch(&self, kernel: &'static str, shape: Shape, args: &[Arg]) -> Result<(), DeviceError> {
        let recorded = Recorded { kernel, shape, args: args.to_vec() };
        let run = with(|thread| match &mut thread.recording {
            Some(recording) => {
                recording.push(recorded.clone());
                thread.traits.fault == Some(Fault::RunsWhatItRecords)
            }
            None => {
                thread.done.launches += 1;
                true
            }
        });
        if run { Self::run(&recorded) } else { Ok(()) }
    }
}

impl Device for Emulator {
    type Memory = Memory;
    type Event = ();
    type Recording = Recording;

    fn name(&self) -> String {
        "the emulator".to_owned()
    }

    fn kernels(&self) -> String {
        "emulated".to_owned()
    }

    fn has_bf16(&self) -> bool {
        with(|thread| thread.traits.has_bf16)
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(with(|thread| thread.traits.free_bytes))
    }

    fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        let layout = Layout::from_size_align(bytes.max(1), 256).unwrap();
        // SAFETY: the size is not 0, and what is written lies within it.
        unsafe {
            let start = alloc(layout);
            if start.is_null() {
                return Err(DeviceError::OutOfMemory(bytes));
            }
            start.write_bytes(POISON, bytes);
            crate::forget(start as usize, bytes);
            Ok(Memory { start, layout })
        }
    }

    fn address(memory: &Memory) -> u64 {
        memory.start as u64
    }

    fn write(&self, memory: &mut Memory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.layout.size());
        let lost = with(|thread| {
            assert!(thread.recording.is_none(), "a copy cannot be recorded");
            thread.done.writes += 1;
            let left = |fault| if let Fault::LosesWrite(left) = fault { Some(left) } else { None };
            thread.loses(left, Fault::LosesWrite)
        });
        if lost {
            return Ok(());
        }
        // SAFETY: it lies within the memory, which is another one than that of `bytes`.
        unsafe {
            memory.start.add(at).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            crate::forget(memory.start as usize + at, bytes.len());
        }
        Ok(())
    }

    fn read(&self, memory: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(at + bytes.len() <= memory.layout.size());
        with(|thread| assert!(thread.recording.is_none(), "a copy cannot be recorded"));
        // SAFETY: as for writing.
        unsafe {
            memory.start.add(at).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    /// Everything that was launched has run already, later launches included, so a read of what a later launch overwrites
    /// gives the wrong result.
    fn read_after(&self, _: &(), memory: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.read(memory, at, bytes)?;
        with(|thread| {
            let last = std::mem::replace(&mut thread.last_read, bytes.to_vec());
            if thread.traits.fault == Some(Fault::ReadsLastStep) && last.len() == bytes.len() {
                bytes.copy_from_slice(&last);
            }
        });
        Ok(())
    }

    fn zero(&self, memory: &mut Memory, at: usize, bytes: usize) -> Result<(), DeviceError> {
        assert!(at + bytes <= memory.layout.size());
        let zeroes = with(|thread| match &mut thread.traits.fault {
            Some(Fault::StopsZeroing(left)) => {
                let zeroes = *left > 0;
                *left = left.saturating_sub(1);
                zeroes
            }
            _ => true,
        });
        if !zeroes {
            return Ok(());
        }
        // SAFETY: as for writing.
        unsafe {
            memory.start.add(at).write_bytes(0, bytes);
            crate::forget(memory.start as usize + at, bytes);
        }
        Ok(())
    }

    fn copy(&self, from: &Memory, to: &mut Memory, bytes: usize) -> Result<(), DeviceError> {
        assert!(bytes <= from.layout.size().min(to.layout.size()));
        // SAFETY: both are so large, and two.
        unsafe {
            to.start.copy_from_nonoverlapping(from.start, bytes);
            crate::forget(to.start as usize, bytes);
        }
        Ok(())
    }

    fn record_event(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn retention(&self) -> Retention<Memory> {
        RETENTION.with(Clone::clone)
    }

    fn record(
        &self,
        launches: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Recording, DeviceError> {
        with(|thread| {
            assert!(thread.recording.is_none(), "it records already");
            if !thread.traits.records {
                return Err(DeviceError::Failed("it cannot record".to_owned()));
            }
            thread.recording = Some(Vec::new());
            thread.done.recordings += 1;
            Ok(())
        })?;
        let launched = launches();
        let recorded = with(|thread| thread.recording.take()).unwrap_or_default();
        launched.map(|()| Recording(recorded))
    }

    fn recorded(recording: &Recording) -> usize {
        recording.0.len()
    }

    // SAFETY: as the caller's; launches have run when this returns.
    unsafe fn replay(&self, recording: &Recording) -> Result<(), DeviceError> {
        let times = with(|thread| {
            thread.done.replays += 1;
            let left = |fault| if let Fault::LosesReplay(left) = fault { Some(left) } else { None };
            if thread.loses(left, Fault::LosesReplay) {
                return 0;
            }
            if thread.traits.fault == Some(Fault::ReplaysTwice) { 2 } else { 1 }
        });
        (0..times).try_for_each(|_| recording.0.iter().try_for_each(Self::run))
    }
}
