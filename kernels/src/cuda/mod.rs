//! Kernels for CUDA: one source for every device there is and for the emulator, and the code that launches them.
//!
//! Launchers check every size and are safe to call; what a kernel reads from tables, it checks itself and stops the
//! device if it is out of bounds. Must not touch: requests, files.

mod attention;
#[cfg_attr(not(feature = "cuda"), path = "no_driver.rs")]
mod driver;
mod input;
mod kv;
mod launch;
mod matrix;
mod memory;
mod narrow;
mod network;
mod norm;
mod quants;
mod random;
mod rope;
mod runner;
mod sample;

pub use self::attention::{Partial, SPLITS, Texts, attend_decode, attend_prefill};
pub use self::driver::CudaDevice;
pub use self::input::Text;
pub use self::kv::{HEAD, KvLayout, Layer, PAGE_TOKENS, Places};
pub use self::launch::{Arg, DeviceError, Launch, Shape};
pub use self::matrix::{Blocks, Matrix};
pub use self::memory::{Buffer, Device, Element, View, ViewMut};
pub use self::narrow::Narrow;
pub use self::network::{Activations, Input, LayerWeights, Network, Room};
pub use self::norm::{MOST_WIDTH, add_rms_norm};
pub use self::quants::{BLOCK, GROUP, arrange_q4k, arrange_q8_0, q4k_words, q8_0_words, quantise};
pub use self::random::{draw, draw_words, repeat_words};
pub use self::rope::{angles, rope};
pub use self::runner::{Outcome, Runner, RunnerRoom};
pub use self::sample::{CHOICE_WORDS, Chooser, Feedback, NO_TOKEN, choose, feed_back};
