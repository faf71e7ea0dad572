//! Runs the CUDA kernels of `kernels/src/cuda` on the host's CPU, for tests.
//!
//! A kernel's threads are fibers, scheduled in an order that [`schedule`] chooses for the calling thread. What a GPU
//! would let pass is an error here: barriers that not all threads reach, warp operations with wrong masks, arguments
//! of the wrong size. Which further checks are built in is [`MODE`]. It says nothing about speed, and nothing about
//! what nvcc makes of the sources.

pub mod device;
pub mod matrices;
pub mod numbers;
pub mod pages;

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};

/// How this build checks accesses: an empty text for not at all, `address` for AddressSanitizer and UBSan, `race` for
/// the race checker. Chosen by the environment variable `KERNELS_EMU` when it is built.
pub const MODE: &str = env!("EMULATOR_MODE");

/// The most parameters that a kernel may have.
const MOST_PARAMETERS: usize = 32;

unsafe extern "C" {
    fn emu_launch(
        name: *const c_char,
        grid: *const c_uint,
        block: *const c_uint,
        dynamic_bytes: c_uint,
        args: *mut *mut c_void,
    ) -> c_int;
    fn emu_last_error() -> *const c_char;
    fn emu_schedule(policy: c_int, seed: u64, preempt: c_uint);
    fn emu_forget(from: usize, bytes: usize);
    fn emu_parameters(name: *const c_char, sizes: *mut usize) -> c_int;
}

/// In what order threads and blocks take their turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// The first thread that can go on does.
    InOrder,
    /// The last one does.
    Reverse,
    /// One warp goes as far as it can, then another; which goes first is drawn for each block.
    WarpPriority(u64),
    /// Any thread.
    RandomThreads(u64),
}

impl Schedule {
    /// One of each kind, where something is drawn by `seed`.
    pub fn each(seed: u64) -> [Self; 4] {
        [Self::InOrder, Self::Reverse, Self::WarpPriority(seed), Self::RandomThreads(seed)]
    }
}

/// Chooses the order for what the calling thread launches from now on. In a race build, one access in `preempt` also
/// ends its thread's turn, if that is not 0.
pub fn schedule(schedule: Schedule, preempt: u32) {
    let (policy, seed) = match schedule {
        Schedule::InOrder => (0, 0),
        Schedule::Reverse => (1, 0),
        Schedule::WarpPriority(seed) => (2, seed),
        Schedule::RandomThreads(seed) => (3, seed),
    };
    // SAFETY: the function takes any numbers, and what it sets belongs to this thread.
    unsafe { emu_schedule(policy, seed, preempt) }
}

/// Tells the race checker that these `bytes` from the address `from` on were given to another buffer, or overwritten by the
/// host: accesses before and after do not race.
pub fn forget(from: usize, bytes: usize) {
    // SAFETY: nothing is read or written there.
    unsafe { emu_forget(from, bytes) }
}

/// An argument: its bytes, of which the first `size` count. Little endian, as are all devices that are meant.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    /// The bytes.
    pub bits: u64,
    /// How many of them there are.
    pub size: usize,
}

/// Runs a kernel to its end.
///
/// # Errors
/// There is no such kernel, `args` are not of its parameters' sizes, the shape is not possible, or a check failed.
///
/// # Safety
/// What the kernel reaches through pointers among `args` is memory that it may use so.
pub unsafe fn launch(
    name: &str,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_bytes: u32,
    args: &[Arg],
) -> Result<(), String> {
    let symbol = CString::new(name).map_err(|_| format!("no kernel is called {name:?}"))?;
    let mut sizes = [0; MOST_PARAMETERS];
    // SAFETY: the name ends with a zero byte, and there is room for as many sizes as an entry can have.
    let count = unsafe { emu_parameters(symbol.as_ptr(), sizes.as_mut_ptr()) };
    let wanted = usize::try_from(count).map_err(|_| format!("there is no kernel {name}"))?;
    let given: Vec<usize> = args.iter().map(|arg| arg.size).collect();
    if sizes.get(..wanted) != Some(&given) {
        return Err(format!("{name} takes arguments of {:?} bytes, not {given:?}", &sizes[..wanted]));
    }
    let mut bits: Vec<u64> = args.iter().map(|arg| arg.bits).collect();
    let mut pointers: Vec<*mut c_void> = bits.iter_mut().map(|bits| (&raw mut *bits).cast()).collect();
    // They may lie where something was that a kernel wrote.
    forget(bits.as_ptr() as usize, size_of_val(bits.as_slice()));
    forget(pointers.as_ptr() as usize, size_of_val(pointers.as_slice()));
    // SAFETY: the arguments are as many and as large as the kernel takes; the caller vouches for what they point to.
    let failed = unsafe {
        emu_launch(symbol.as_ptr(), grid.as_ptr(), block.as_ptr(), dynamic_bytes, pointers.as_mut_ptr())
    };
    if failed == 0 {
        return Ok(());
    }
    // SAFETY: the text belongs to this thread and stays as it is until the next launch.
    let message = unsafe { CStr::from_ptr(emu_last_error()) };
    Err(message.to_string_lossy().into_owned())
}
