//! The CUDA driver behind [`Device`]: one device, one stream, the kernels that `build.rs` compiled.
//!
//! The driver's library is loaded when a device is opened, so the same program starts where there is none.
//! Must not touch: what the kernels compute.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::launch::{Arg, DeviceError, Launch, Shape};
use super::memory::Device;

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// Shared memory that every kernel may have; what is more must be asked for.
const SHARED_BYTES: u32 = 48 * 1024;

/// A CUDA device, for the thread that opened it.
pub struct CudaDevice {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Vec<sys::CUmodule>,
    /// Those that have run, and how much shared memory each may have.
    kernels: RefCell<HashMap<&'static str, (sys::CUfunction, u32)>>,
}

/// Memory of a [`CudaDevice`].
pub struct CudaMemory {
    address: sys::CUdeviceptr,
    stream: Arc<CudaStream>,
}

impl CudaDevice {
    /// Opens the device with this number.
    ///
    /// # Errors
    /// There is no driver or no such device, the driver is older than the kernels, or the device is.
    #[allow(unsafe_code)]
    pub fn open(number: usize) -> Result<Self, DeviceError> {
        // SAFETY: it only tries to load the driver's library.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::NoDevice("libcuda.so.1 is not installed".to_owned()));
        }
        let absent = |error: DriverError| DeviceError::NoDevice(error.to_string());
        let context = CudaContext::new(number).map_err(absent)?;
        // SAFETY: this device has one stream, in whose order memory is taken, used and given back.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(absent)?;
        let mut device = Self { context, stream, modules: Vec::new(), kernels: RefCell::default() };
        for fatbin in FATBINS {
            // The driver reads words; an included file may begin anywhere.
            let words: Vec<u64> = fatbin
                .chunks(8)
                .map(|bytes| {
                    let mut word = [0; 8];
                    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                    u64::from_ne_bytes(word)
                })
                .collect();
            // SAFETY: it is a whole fatbin, as nvcc wrote it, and the driver copies it.
            let module = unsafe { result::module::load_data(words.as_ptr().cast()) }.map_err(absent)?;
            device.modules.push(module);
        }
        Ok(device)
    }

    /// The kernel `name`, which may have `shared_bytes`.
    #[allow(unsafe_code)]
    fn kernel(&self, name: &'static str, shared_bytes: u32) -> Result<sys::CUfunction, DeviceError> {
        let known = self.kernels.borrow().get(name).copied();
        if let Some((kernel, _)) = known.filter(|(_, limit)| shared_bytes <= *limit) {
            return Ok(kernel);
        }
        let symbol = CString::new(name).map_err(|error| DeviceError::Failed(error.to_string()))?;
        let find = |module: &sys::CUmodule| {
            // SAFETY: the module is loaded for as long as the device lives.
            unsafe { result::module::get_function(*module, symbol.clone()) }.ok()
        };
        let missing = || DeviceError::Failed(format!("there is no kernel {name}"));
        let kernel = self.modules.iter().find_map(find).ok_or_else(missing)?;
        if shared_bytes > SHARED_BYTES {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let bytes = i32::try_from(shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: the kernel belongs to a loaded module.
            unsafe { result::function::set_function_attribute(kernel, attribute, bytes) }.map_err(failed)?;
        }
        self.kernels.borrow_mut().insert(name, (kernel, shared_bytes.max(SHARED_BYTES)));
        Ok(kernel)
    }
}

impl Drop for CudaDevice {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        self.context.record_err(self.stream.synchronize());
        for module in &self.modules {
            // SAFETY: nothing runs any more, and nobody else has the module.
            self.context.record_err(unsafe { result::module::unload(*module) });
        }
    }
}

impl Drop for CudaMemory {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: it came from this stream, and whatever uses it was launched there before.
        let freed = unsafe { result::free_async(self.address, self.stream.cu_stream()) };
        self.stream.context().record_err(freed);
    }
}

impl Launch for CudaDevice {
    #[allow(unsafe_code)]
    unsafe fn launch(&self, kernel: &'static str, shape: Shape, args: &[Arg]) -> Result<(), DeviceError> {
        let function = self.kernel(kernel, shape.shared_bytes)?;
        let mut bits: Vec<u64> = args.iter().map(|arg| arg.bits()).collect();
        let mut pointers: Vec<*mut c_void> = bits.iter_mut().map(|bits| (&raw mut *bits).cast()).collect();
        let [x, y, z] = shape.grid;
        let threads = (shape.threads, 1, 1);
        let stream = self.stream.cu_stream();
        // SAFETY: the arguments are what the kernel takes, for which the caller vouches; the driver copies them.
        unsafe {
            result::launch_kernel(function, (x, y, z), threads, shape.shared_bytes, stream, &mut pointers)
        }
        .map_err(failed)
    }
}

impl Device for CudaDevice {
    type Memory = CudaMemory;

    #[allow(unsafe_code)]
    fn allocate(&self, bytes: usize) -> Result<CudaMemory, DeviceError> {
        // SAFETY: the stream lives as long as the memory.
        let address = unsafe { result::malloc_async(self.stream.cu_stream(), bytes.max(1)) }
            .map_err(|_| DeviceError::OutOfMemory(bytes))?;
        Ok(CudaMemory { address, stream: Arc::clone(&self.stream) })
    }

    fn address(memory: &CudaMemory) -> u64 {
        memory.address
    }

    #[allow(unsafe_code)]
    fn write(&self, memory: &mut CudaMemory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let (to, stream) = (memory.address + at as u64, self.stream.cu_stream());
        // SAFETY: the memory is so large, for which the caller vouches; `bytes` stay until the copy is done.
        unsafe { result::memcpy_htod_async(to, bytes, stream) }.map_err(failed)?;
        self.stream.synchronize().map_err(failed)
    }

    #[allow(unsafe_code)]
    fn read(&self, memory: &CudaMemory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let (from, stream) = (memory.address + at as u64, self.stream.cu_stream());
        // SAFETY: as for writing.
        unsafe { result::memcpy_dtoh_async(bytes, from, stream) }.map_err(failed)?;
        self.stream.synchronize().map_err(failed)
    }
}

fn failed(error: DriverError) -> DeviceError {
    DeviceError::Failed(error.to_string())
}
