//! Kernels for CUDA: one source for every device there is and for the emulator, and the code that launches them.
//!
//! Launchers check every size and are safe to call; what a kernel reads from tables, it checks itself and stops the
//! device if it is out of bounds. Must not touch: requests, files.

mod activation;
mod launch;
mod memory;
mod norm;

pub use self::activation::Activation;
pub use self::launch::{Arg, DeviceError, Launch, Shape};
pub use self::memory::{Buffer, Device, Element, View, ViewMut};
pub use self::norm::add_rms_norm;
