//! Kernels for CPUs: one source per kernel, made for every instruction set there is, chosen while it runs.
//!
//! A sum is always taken in the same order: sixteen partial sums over the columns, then a fixed tree. So a result
//! does not depend on how many rows are computed together or on how many threads, and a batch gives exactly what
//! its members give alone. Activations stay f32: rounding them to use bf16 or int8 products would be faster in
//! prefill, and would make the answer depend on which path was taken.
//!
//! Must not touch: requests, files.

mod attention;
mod elementwise;
mod kv;
mod matmul;
mod matrix;
mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use self::attention::{Heads, Place, attention};
pub(crate) use self::elementwise::{Angles, add_assign, geglu, rms_norm, rotate};
pub(crate) use self::kv::{BLOCK_TOKENS, BlockId, KvPool, KvShape};
pub(crate) use self::matmul::matmul;
pub(crate) use self::matrix::{Format, Matrix, Source};
pub(crate) use self::simd::Level;
