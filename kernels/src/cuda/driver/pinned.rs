//! Host memory that the device copies to and from by itself.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};

use super::failed;
use crate::cuda::DeviceError;

/// A piece of it. It is zeroized on drop: it may hold prompts.
pub(super) struct Pinned {
    start: *mut u8,
    length: usize,
    /// What reads it last.
    last: Option<CudaEvent>,
    context: Arc<CudaContext>,
}

impl Pinned {
    pub(super) fn new(context: &Arc<CudaContext>, length: usize) -> Result<Self, DeviceError> {
        // SAFETY: there is a context; the memory is written before it is looked at.
        let start = unsafe { result::malloc_host(length, 0) }.map_err(failed)?.cast::<u8>();
        // SAFETY: it has this length, and is not shared.
        unsafe { start.write_bytes(0, length) };
        Ok(Self { start, length, last: None, context: Arc::clone(context) })
    }

    /// The first `length` bytes, or all if it is shorter.
    pub(super) fn bytes(&mut self, length: usize) -> &mut [u8] {
        // SAFETY: the memory is so long and was written.
        unsafe { std::slice::from_raw_parts_mut(self.start, length.min(self.length)) }
    }

    /// Waits until it may be written.
    pub(super) fn wait(&mut self) -> Result<(), DeviceError> {
        self.last.take().map_or(Ok(()), |event| event.synchronize().map_err(failed))
    }

    /// Records an event after the copy that was launched last and uses it.
    pub(super) fn record_use(&mut self, stream: &CudaStream) -> Result<(), DeviceError> {
        self.last = Some(stream.record_event(None).map_err(failed)?);
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let waited = self.last.take().map_or(Ok(()), |event| event.synchronize());
        self.context.record_err(waited);
        let length = self.length;
        zeroize::Zeroize::zeroize(self.bytes(length));
        // SAFETY: it came from there, and nothing reads it any more.
        self.context.record_err(unsafe { result::free_host(self.start.cast()) });
    }
}
