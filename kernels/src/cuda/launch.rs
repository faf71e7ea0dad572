//! How a kernel is started: by name, over a grid, on whatever can run it.
//!
//! Launchers are written once over [`Launch`]. The driver implements it, and so does the emulator that the tests run
//! kernels on.

/// Why a device did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no device, or it is not one that the kernels are made for.
    #[error("no device: {0}")]
    NoDevice(String),
    /// Its memory is full.
    #[error("the device has too little memory for {0} more bytes")]
    OutOfMemory(usize),
    /// Sizes do not fit together.
    #[error("cannot launch {kernel}: {reason}")]
    Shape {
        /// What was to run.
        kernel: &'static str,
        /// What does not fit.
        reason: &'static str,
    },
    /// A launch or a copy failed.
    #[error("the device failed: {0}")]
    Failed(String),
}

/// Over how many blocks and threads a kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks, in three dimensions.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Shared memory of a block beyond what the kernel declares, in bytes.
    pub shared_bytes: u32,
}

/// An argument of a kernel: a number or an address.
#[derive(Clone, Copy, Debug)]
pub struct Arg {
    bits: u64,
    bytes: usize,
}

impl Arg {
    /// The argument's bytes, the lowest first; only as many count as [`Arg::bytes`] says.
    pub fn bits(self) -> u64 {
        self.bits
    }

    /// How many bytes it takes.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// An address on the device.
    pub(super) fn address(address: u64) -> Self {
        Self { bits: address, bytes: 8 }
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self { bits: u64::from(value), bytes: 4 }
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::from(value.to_bits())
    }
}

/// Whatever can run a kernel. Launches take effect one after the other.
pub trait Launch {
    /// Starts `kernel`. It may still run when this returns; a later launch or copy waits for it.
    ///
    /// # Errors
    /// It cannot be started. What goes wrong while it runs may be reported by a later call.
    ///
    /// # Safety
    /// `args` are what the kernel takes. Addresses among them are of memory that is as large as it expects, that
    /// nothing else writes meanwhile, and that is not given back before a later launch would have run.
    unsafe fn launch(&self, kernel: &'static str, shape: Shape, args: &[Arg]) -> Result<(), DeviceError>;
}

/// What every launcher must know: that the sizes fit.
pub(super) fn require(holds: bool, kernel: &'static str, reason: &'static str) -> Result<(), DeviceError> {
    if holds { Ok(()) } else { Err(DeviceError::Shape { kernel, reason }) }
}

/// A size as kernels count: what does not fit is more than any device has.
pub(super) fn count(kernel: &'static str, value: usize) -> Result<u32, DeviceError> {
    // Kernels count in `int`.
    i32::try_from(value)
        .map(i32::cast_unsigned)
        .map_err(|_| DeviceError::Shape { kernel, reason: "a size exceeds 31 bits" })
}
