//! The CUDA driver behind [`Device`]: one device, one stream, the kernels that `build.rs` compiled.
//!
//! The program is linked with stand-ins that load the driver's library at the first call (scripts/cuda-stubs.py), so it
//! starts where there is none. A device launches on a stream of its own, in the device's primary context.

mod pinned;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};

use self::pinned::Pinned;
use super::launch::{Arg, DeviceError, Launch, Shape};
use super::memory::Device;
use super::retention::Retention;

include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The driver's library.
const DRIVER: &str = "libcuda.so.1";
/// Shared memory that every kernel may have; what is more must be asked for.
const SHARED_BYTES: u32 = 48 * 1024;
/// Copies up to this size go through memory that the device reads by itself.
const PINNED_BYTES: usize = 4 << 20;

/// A CUDA device, for the thread that opened it.
pub struct CudaDevice {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// Copies results while the other stream goes on.
    copies: Arc<CudaStream>,
    /// On the way there, and on the way back.
    pinned: RefCell<[Pinned; 2]>,
    modules: Vec<sys::CUmodule>,
    /// Those that have run, and how much shared memory each may have.
    kernels: RefCell<HashMap<&'static str, (sys::CUfunction, u32)>>,
    name: String,
    /// The compute capability that the loaded kernels were made for: 90 for 9.0.
    made_for: i32,
    has_bf16: bool,
    /// Whether a launch may start before the one before it has ended.
    overlaps: bool,
    retention: Retention<CudaMemory>,
}

/// Memory of a [`CudaDevice`].
pub struct CudaMemory {
    address: sys::CUdeviceptr,
    stream: Arc<CudaStream>,
}

/// A CUDA graph of launches.
pub struct CudaRecording {
    graph: sys::CUgraphExec,
    launches: usize,
    context: Arc<CudaContext>,
}

impl CudaDevice {
    /// Why there is no device, as one of a closed set of reasons, and as far as can be told without opening one; `None`
    /// if there is one.
    pub fn missing() -> Option<&'static str> {
        if !has_driver() {
            return Some("no_driver");
        }
        match CudaContext::device_count() {
            Ok(count) if count > 0 => None,
            Ok(_) => Some("no_device"),
            Err(_) => Some("driver_failed"),
        }
    }

    /// Looks for the device with this number, without opening it.
    ///
    /// # Errors
    /// There is no driver, or no such device.
    pub fn find(number: usize) -> Result<(), DeviceError> {
        if !has_driver() {
            return Err(DeviceError::NoDevice(format!("{DRIVER} is not installed")));
        }
        let count = CudaContext::device_count().map_err(absent)?;
        if i32::try_from(number).map_or(true, |number| number >= count) {
            return Err(DeviceError::NoDevice(format!(
                "there are {count}, and number {number} is none of them"
            )));
        }
        Ok(())
    }

    /// Opens the device with this number.
    ///
    /// # Errors
    /// There is no driver or no such device, the driver is older than the kernels, or the device is.
    pub fn open(number: usize) -> Result<Self, DeviceError> {
        Self::find(number)?;
        let context = CudaContext::new(number).map_err(absent)?;
        let stream = context.new_stream().map_err(absent)?;
        // SAFETY: memory is taken, used and given back in the order of one stream; the other waits for events.
        unsafe { context.disable_event_tracking() };
        let copies = context.new_stream().map_err(absent)?;
        let (major, minor) = context.compute_capability().map_err(absent)?;
        let name = context.name().map_err(absent)?;
        if (major, minor) < (7, 5) {
            let reason = format!("{name} is of compute capability {major}.{minor}, and 7.5 is the least");
            return Err(DeviceError::NoDevice(reason));
        }
        let pinned = [Pinned::new(&context, PINNED_BYTES)?, Pinned::new(&context, PINNED_BYTES)?];
        let mut device = Self {
            stream,
            copies,
            pinned: RefCell::new(pinned),
            modules: Vec::new(),
            kernels: RefCell::default(),
            name,
            made_for: 0,
            has_bf16: false,
            overlaps: false,
            retention: Retention::default(),
            context,
        };
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
            let module = unsafe { result::module::load_data(words.as_ptr().cast()) }.map_err(unloadable)?;
            device.modules.push(module);
        }
        // What was loaded may be made for an older device: then it can do no more than that.
        let kernel = device.kernel("feed_back", 0)?;
        let made_for = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_PTX_VERSION;
        // SAFETY: the kernel belongs to a loaded module.
        let made_for =
            unsafe { result::function::get_function_attribute(kernel, made_for) }.map_err(failed)?;
        device.made_for = made_for;
        device.has_bf16 = major >= 8 && made_for >= 80;
        device.overlaps = major >= 9 && made_for >= 90;
        Ok(device)
    }

    /// The kernel `name`, which may have `shared_bytes`.
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

    /// Copies to `bytes` what lies at `from`, in the order of `stream`, and waits for that.
    fn fetch(
        &self,
        stream: &CudaStream,
        from: sys::CUdeviceptr,
        bytes: &mut [u8],
    ) -> Result<(), DeviceError> {
        let [_, pinned] = &mut *self.pinned.borrow_mut();
        for (number, part) in bytes.chunks_mut(PINNED_BYTES).enumerate() {
            let from = from + (number * PINNED_BYTES) as u64;
            let between = pinned.bytes(part.len());
            // SAFETY: the caller vouches for what lies there; nothing else uses the pinned memory until it is read here.
            unsafe { result::memcpy_dtoh_async(between, from, stream.cu_stream()) }.map_err(failed)?;
            stream.synchronize().map_err(failed)?;
            part.copy_from_slice(between);
        }
        Ok(())
    }
}

impl Drop for CudaDevice {
    fn drop(&mut self) {
        self.context.record_err(self.stream.synchronize());
        self.context.record_err(self.copies.synchronize());
        for module in &self.modules {
            // SAFETY: nothing runs any more, and nothing else uses the module.
            self.context.record_err(unsafe { result::module::unload(*module) });
        }
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        // SAFETY: it came from this stream, and whatever uses it was launched there before.
        let freed = unsafe { result::free_async(self.address, self.stream.cu_stream()) };
        self.stream.context().record_err(freed);
    }
}

impl Drop for CudaRecording {
    fn drop(&mut self) {
        // SAFETY: nothing else uses it; a launch that still runs keeps what it needs.
        self.context.record_err(unsafe { result::graph::exec_destroy(self.graph) });
    }
}

impl Launch for CudaDevice {
    unsafe fn launch(&self, kernel: &'static str, shape: Shape, args: &[Arg]) -> Result<(), DeviceError> {
        let function = self.kernel(kernel, shape.shared_bytes)?;
        let mut bits: Vec<u64> = args.iter().map(|arg| arg.bits()).collect();
        let mut pointers: Vec<*mut c_void> = bits.iter_mut().map(|bits| (&raw mut *bits).cast()).collect();
        // Kernels wait by themselves for what they need of the launch before.
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let [x, y, z] = shape.grid;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut overlap,
            numAttrs: self.overlaps.into(),
        };
        // SAFETY: the arguments are what the kernel takes, for which the caller vouches; the driver copies them.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function, pointers.as_mut_ptr(), ptr::null_mut()) }
            .result()
            .map_err(failed)
    }
}

impl Device for CudaDevice {
    type Memory = CudaMemory;
    type Event = CudaEvent;
    type Recording = CudaRecording;

    fn name(&self) -> String {
        self.name.clone()
    }

    fn kernels(&self) -> String {
        format!("sm_{}", self.made_for)
    }

    fn has_bf16(&self) -> bool {
        self.has_bf16
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.stream.synchronize().map_err(failed)?;
        let (free, _) = self.context.mem_get_info().map_err(failed)?;
        Ok(free as u64)
    }

    fn allocate(&self, bytes: usize) -> Result<CudaMemory, DeviceError> {
        // SAFETY: the stream lives as long as the memory.
        let address =
            unsafe { result::malloc_async(self.stream.cu_stream(), bytes.max(1)) }.map_err(|error| {
                match error.0 {
                    sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory(bytes),
                    _ => failed(error),
                }
            })?;
        Ok(CudaMemory { address, stream: Arc::clone(&self.stream) })
    }

    fn address(memory: &CudaMemory) -> u64 {
        memory.address
    }

    fn write(&self, memory: &mut CudaMemory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let [pinned, _] = &mut *self.pinned.borrow_mut();
        for (number, part) in bytes.chunks(PINNED_BYTES).enumerate() {
            let to = memory.address + (at + number * PINNED_BYTES) as u64;
            pinned.wait()?;
            let between = pinned.bytes(part.len());
            between.copy_from_slice(part);
            // SAFETY: the memory is so large, for which the caller vouches; the pinned memory stays until it was read.
            unsafe { result::memcpy_htod_async(to, between, self.stream.cu_stream()) }.map_err(failed)?;
            pinned.record_use(&self.stream)?;
        }
        Ok(())
    }

    fn read(&self, memory: &CudaMemory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.fetch(&self.stream, memory.address + at as u64, bytes)
    }

    fn read_after(
        &self,
        event: &CudaEvent,
        memory: &CudaMemory,
        at: usize,
        bytes: &mut [u8],
    ) -> Result<(), DeviceError> {
        self.copies.wait(event).map_err(failed)?;
        self.fetch(&self.copies, memory.address + at as u64, bytes)
    }

    fn zero(&self, memory: &mut CudaMemory, at: usize, bytes: usize) -> Result<(), DeviceError> {
        let address = memory.address + at as u64;
        // SAFETY: the memory is so large, for which the caller vouches.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }.map_err(failed)
    }

    fn copy(&self, from: &CudaMemory, to: &mut CudaMemory, bytes: usize) -> Result<(), DeviceError> {
        let stream = self.stream.cu_stream();
        // SAFETY: both are so large, for which the caller vouches, and are not the same.
        unsafe { result::memcpy_dtod_async(to.address, from.address, bytes, stream) }.map_err(failed)
    }

    fn record_event(&self) -> Result<CudaEvent, DeviceError> {
        self.stream.record_event(None).map_err(failed)
    }

    fn retention(&self) -> Retention<CudaMemory> {
        self.retention.clone()
    }

    fn record(
        &self,
        launches: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<CudaRecording, DeviceError> {
        let (stream, mode) =
            (self.stream.cu_stream(), sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        // SAFETY: the stream is this device's own, and only this thread launches there.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(failed)?;
        let launched = launches();
        // SAFETY: it captures since above; however that ended, it does not any more.
        let graph = unsafe { result::stream::end_capture(stream) }.map_err(failed)?;
        if graph.is_null() {
            return Err(DeviceError::Failed("it records nothing".to_owned()));
        }
        let flags = sys::CUgraphInstantiate_flags(0);
        let mut launches = 0;
        // SAFETY: the graph is whole and is used this once. Without room for the nodes, it is told how many there are.
        let executable = unsafe {
            let executable = launched.and_then(|()| {
                sys::cuGraphGetNodes(graph, ptr::null_mut(), &raw mut launches).result().map_err(failed)?;
                result::graph::instantiate(graph, flags).map_err(failed)
            });
            result::graph::destroy(graph).map_err(failed)?;
            executable?
        };
        Ok(CudaRecording { graph: executable, launches, context: Arc::clone(&self.context) })
    }

    fn recorded(recording: &CudaRecording) -> usize {
        recording.launches
    }

    unsafe fn replay(&self, recording: &CudaRecording) -> Result<(), DeviceError> {
        // SAFETY: as the caller's.
        unsafe { result::graph::launch(recording.graph, self.stream.cu_stream()) }.map_err(failed)
    }
}

/// Whether the driver's library can be loaded. What the stand-ins return without it does not tell that from a driver
/// without devices.
fn has_driver() -> bool {
    // SAFETY: the driver's library does nothing when it is loaded, and is loaded again by the first call.
    unsafe { libloading::Library::new(DRIVER) }.is_ok()
}

fn absent(error: DriverError) -> DeviceError {
    DeviceError::NoDevice(error.to_string())
}

/// The kernels are compiled for a version of CUDA that older drivers do not know.
fn unloadable(error: DriverError) -> DeviceError {
    if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
        return DeviceError::NoDevice("its memory is full: not even the kernels fit".to_owned());
    }
    DeviceError::NoDevice(format!(
        "the driver does not load the kernels, which need version 580 or newer: {error}"
    ))
}

fn failed(error: DriverError) -> DeviceError {
    DeviceError::Failed(error.to_string())
}
