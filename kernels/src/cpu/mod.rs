//! Kernels for CPUs: one source per kernel, compiled for every instruction set, which is chosen at run time.
//!
//! A sum is always taken in the same order: from the first column to the last. So a result does not depend on how many
//! rows are computed together or on how many threads, and a batch gives exactly what its members give alone.
//!
//! Activations are rounded once for each product, on every path alike. With bf16 weights and AVX-512 they become bf16: in
//! the small model that changes a logit by at most 0.3% of the largest one. With quantized weights they become eight bits
//! and a scale for every 32: by at most 1.6% with q8_0, in both cases beside the same weights multiplied in f32.

mod activations;
mod attention;
mod elementwise;
mod ggml;
mod kv;
mod level;
mod matmul;
mod matrix;
mod memory;
mod pack;
mod q4k;
mod simd;
#[cfg(test)]
mod tests;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use self::attention::{Heads, Place, attention};
pub use self::elementwise::{Angles, add_assign, geglu, rms_norm, rotate};
pub use self::ggml::Source;
pub use self::kv::{KvPool, KvShape, KvType};
pub use self::level::Level;
pub use self::matmul::matmul;
pub use self::matrix::{Format, Matrix};
pub use self::q4k::quantize_q4k;
pub(crate) use self::simd::{Kernel, LANES, Lane, Simd};
