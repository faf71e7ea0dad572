//! Where candle computes. No other file names a device of candle.

use candle_core::{DType, Device};
use codeseal_kernels::cuda::{CudaDevice, DeviceError};

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
    ///
    /// # Errors
    /// [`DeviceError::NoDevice`] in a program that was built without candle.
    pub fn cpu() -> Result<Self, DeviceError> {
        Ok(Self { device: Device::Cpu, dense: DType::F32, name: String::from("cpu") })
    }

    /// The CUDA device with this number, on a stream of its own. Dense weights are bf16, or f16 below 8.0, where tensor
    /// cores have no bf16.
    ///
    /// # Errors
    /// [`DeviceError::NoDevice`]: there is no driver or no such device, candle's libraries are missing, or this program was
    /// built without CUDA.
    pub fn cuda(number: usize) -> Result<Self, DeviceError> {
        CudaDevice::find(number)?;
        let refused = |error: &candle_core::Error| {
            DeviceError::NoDevice(format!(
                "candle does not open it, for which cuBLAS 13 and cuRAND 10 must be installed, unless --backend kernels is set: {}",
                first_line(error)
            ))
        };
        let device = Device::new_cuda_with_stream(number).map_err(|error| refused(&error))?;
        let (name, has_bf16) = facts(&device).map_err(|error| refused(&error))?;
        Ok(Self { device, dense: if has_bf16 { DType::BF16 } else { DType::F16 }, name })
    }

    /// The CPU with dense weights in f16, which devices without bf16 multiply.
    #[cfg(test)]
    pub(crate) fn cpu_f16() -> Self {
        Self { dense: DType::F16, ..Self::cpu().unwrap() }
    }

    /// `cpu`, or `cuda` and the device's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Memory that is free on the device, in bytes; none for the CPU, whose memory is the machine's.
    pub(crate) fn free_bytes(&self) -> Option<u64> {
        free_bytes(&self.device)
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
        let line = first_line(error);
        if self.device.is_cpu() { ModelError::Candle(line) } else { DeviceError::Failed(line).into() }
    }
}

/// What an error says, without the backtrace in the lines after the first.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The device's name, and whether its tensor cores have bf16.
#[cfg(feature = "cuda")]
fn facts(device: &Device) -> candle_core::Result<(String, bool)> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    let name = context.name().map_err(candle_core::Error::wrap)?;
    let (major, _) = context.compute_capability().map_err(candle_core::Error::wrap)?;
    Ok((format!("cuda {name}"), major >= 8))
}

#[cfg(not(feature = "cuda"))]
fn facts(_: &Device) -> candle_core::Result<(String, bool)> {
    candle_core::bail!("this program was built without CUDA")
}

#[cfg(feature = "cuda")]
fn free_bytes(device: &Device) -> Option<u64> {
    let stream = device.as_cuda_device().ok()?.cuda_stream();
    stream.context().mem_get_info().ok().map(|(free, _)| free as u64)
}

#[cfg(not(feature = "cuda"))]
fn free_bytes(_: &Device) -> Option<u64> {
    None
}
