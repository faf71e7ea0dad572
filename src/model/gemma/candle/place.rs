//! Where candle computes. No other file names a device of candle.

use candle_core::{DType, Device};
use codeseal_kernels::cuda::DeviceError;

use crate::model::ModelError;

/// A device of candle, and the type that dense weights have there.
#[derive(Clone)]
pub struct Place {
    device: Device,
    dense: DType,
    name: String,
}

impl Place {
    /// The CPU. Dense weights become f32: candle multiplies no bf16 there, and f16 would lose bits of it.
    pub fn cpu() -> Self {
        Self { device: Device::Cpu, dense: DType::F32, name: String::from("cpu") }
    }

    /// The CUDA device with this number.
    ///
    /// # Errors
    /// [`DeviceError::NoDevice`], always: candle's CUDA device is not connected here yet.
    pub fn cuda(_number: usize) -> Result<Self, DeviceError> {
        let reason = if cfg!(feature = "cuda") {
            "the candle backend does not run on CUDA devices yet: use --backend kernels"
        } else {
            "this program was built without CUDA"
        };
        Err(DeviceError::NoDevice(reason.to_owned()))
    }

    /// The CPU with dense weights in f16, which devices without bf16 multiply.
    #[cfg(test)]
    pub(crate) fn cpu_f16() -> Self {
        Self { dense: DType::F16, ..Self::cpu() }
    }

    /// `cpu`, or `cuda` and the device's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Memory that is free on the device, in bytes; none for the CPU, whose memory is the machine's.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        None
    }

    /// Whether a row's results are bitwise the same in any batch and at any length: true on the CPU, where this module
    /// arranges for it, while libraries of devices choose kernels by the shape.
    pub(crate) fn is_exact(&self) -> bool {
        self.device.is_cpu()
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The type of dense weights.
    pub(super) fn dense(&self) -> DType {
        self.dense
    }

    /// An error of candle. On a device it ends the engine: after a failed launch nothing there can be relied on.
    pub(super) fn error(&self, error: &candle_core::Error) -> ModelError {
        // The lines after the first are a backtrace.
        let line = error.to_string().lines().next().unwrap_or_default().to_owned();
        if self.device.is_cpu() { ModelError::Candle(line) } else { DeviceError::Failed(line).into() }
    }
}
