//! Recorded launches (a CUDA graph).
//!
//! A replay uses the addresses that were recorded. The device's [`super::Retention`] keeps that memory allocated as long as
//! there are recordings, so replaying is safe.

use super::launch::DeviceError;
use super::memory::Device;
use super::retention::Hold;

/// Launches that can be replayed as one.
pub struct Recorded<D: Device> {
    // Dropped in this order: the memory goes last.
    recording: D::Recording,
    hold: Hold<D::Memory>,
}

impl<D: Device> Recorded<D> {
    /// Records what `launches` launches on `device`, and runs none of it.
    ///
    /// # Errors
    /// `launches` fails, or the device cannot record: it is as before, and the same launches can be made one by one.
    pub fn new(
        device: &D,
        launches: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<Self, DeviceError> {
        // Before anything is recorded, so that no memory that is named can be freed.
        let hold = device.retention().hold();
        Ok(Self { recording: device.record(launches)?, hold })
    }

    /// Launches it again, after what was launched before.
    ///
    /// # Errors
    /// It was recorded on another device, or cannot be started.
    pub fn replay(&self, device: &D) -> Result<(), DeviceError> {
        if !self.hold.retention().is(&device.retention()) {
            return Err(DeviceError::Failed("the launches were recorded on another device".to_owned()));
        }
        // SAFETY: views borrow their buffers, so memory that was named existed when it was recorded, and since then the
        // hold retains it. Launches of a device take effect one after the other.
        unsafe { device.replay(&self.recording) }
    }

    /// The number of launches.
    pub fn launches(&self) -> usize {
        D::recorded(&self.recording)
    }
}
