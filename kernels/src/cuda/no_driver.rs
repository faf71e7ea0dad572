//! What stands in the driver's place in programs without the feature `cuda`: a device that is never there.

use super::launch::{Arg, DeviceError, Launch, Shape};
use super::memory::Device;
use super::retention::Retention;

/// A device that does not exist.
pub enum CudaDevice {}

impl CudaDevice {
    /// Why there is no device, as one of a closed set of reasons.
    pub fn missing() -> Option<&'static str> {
        Some("built_without_cuda")
    }

    /// Looks for the device with this number.
    ///
    /// # Errors
    /// Always.
    pub fn find(_number: usize) -> Result<(), DeviceError> {
        Err(absent())
    }

    /// Opens the device with this number.
    ///
    /// # Errors
    /// Always.
    pub fn open(_number: usize) -> Result<Self, DeviceError> {
        Err(absent())
    }
}

fn absent() -> DeviceError {
    DeviceError::NoDevice("this program was built without CUDA".to_owned())
}

impl Launch for CudaDevice {
    unsafe fn launch(&self, _: &'static str, _: Shape, _: &[Arg]) -> Result<(), DeviceError> {
        match *self {}
    }
}

impl Device for CudaDevice {
    type Memory = ();
    type Event = ();
    type Recording = ();

    fn name(&self) -> String {
        match *self {}
    }

    fn kernels(&self) -> String {
        match *self {}
    }

    fn has_bf16(&self) -> bool {
        match *self {}
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        match *self {}
    }

    fn allocate(&self, _: usize) -> Result<(), DeviceError> {
        match *self {}
    }

    fn address((): &()) -> u64 {
        0
    }

    fn write(&self, (): &mut (), _: usize, _: &[u8]) -> Result<(), DeviceError> {
        match *self {}
    }

    fn read(&self, (): &(), _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
        match *self {}
    }

    fn read_after(&self, (): &(), (): &(), _: usize, _: &mut [u8]) -> Result<(), DeviceError> {
        match *self {}
    }

    fn zero(&self, (): &mut (), _: usize, _: usize) -> Result<(), DeviceError> {
        match *self {}
    }

    fn copy(&self, (): &(), (): &mut (), _: usize) -> Result<(), DeviceError> {
        match *self {}
    }

    fn record_event(&self) -> Result<(), DeviceError> {
        match *self {}
    }

    fn retention(&self) -> Retention<()> {
        match *self {}
    }

    fn record(&self, _: &mut dyn FnMut() -> Result<(), DeviceError>) -> Result<(), DeviceError> {
        match *self {}
    }

    fn recorded((): &()) -> usize {
        0
    }

    unsafe fn replay(&self, (): &()) -> Result<(), DeviceError> {
        match *self {}
    }
}
