//! The arithmetic of codeseal's model: matrix products, attention, normalization and sampling.
//!
//! | module | holds |
//! |---|---|
//! | [`cpu`] | SIMD kernels; the instruction set is chosen at run time |
//! | [`cuda`] | CUDA kernels (`.cu`), the code that launches them, device memory |
//! | [`kv`] | KV blocks, the same on CPU and GPU |
//! | [`sampling`] | the choice of a token, the same on CPU and GPU |
//!
//! This crate is the only place with `unsafe` code, each block with its `SAFETY` comment. It knows no model, no request and
//! no file: it depends on nothing else of codeseal.

pub mod cpu;
pub mod cuda;
pub mod kv;
pub mod sampling;
