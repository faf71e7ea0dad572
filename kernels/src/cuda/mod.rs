//! Kernels for CUDA: one source for all devices and for the emulator, and the code that launches them.
//!
//! Launchers check every size and are safe to call; indices that a kernel reads from tables, it checks itself, and stops the
//! device if one is out of bounds. Which launches make a forward pass is the model's business.

mod attention;
#[cfg_attr(not(feature = "cuda"), path = "no_driver.rs")]
mod driver;
mod kv;
mod launch;
mod matrix;
mod memory;
mod narrow;
mod norm;
mod quants;
mod random;
mod recording;
mod retention;
mod rope;
mod sample;

pub use self::attention::{Partial, Prompts, SPLITS, attend_decode, attend_prefill};
pub use self::driver::CudaDevice;
pub use self::kv::{HEAD, KvLayout, Layer, Places};
pub use self::launch::{Arg, DeviceError, Launch, Shape};
pub use self::matrix::{Blocks, Matrix};
pub use self::memory::{Buffer, Device, Element, View, ViewMut};
pub use self::narrow::Narrow;
pub use self::norm::{MOST_WIDTH, add_rms_norm};
pub use self::quants::{BLOCK, GROUP, arrange_q4k, arrange_q8_0, q4k_words, q8_0_words, quantize_q8_0};
pub use self::random::{draw, draw_words, repeat_words};
pub use self::recording::Recorded;
pub use self::retention::Retention;
pub use self::rope::{angles, rope};
pub use self::sample::{Feedback, NO_TOKEN, SAMPLER_WORDS, SamplingBuffers, feed_back, sample_rows};
