//! The model, the engine and the server on a device: the CUDA kernels run on the CPU by the emulator.
//!
//! Single kernels are tested in `kernels/tests`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod bench;
mod engine;
mod faults;
mod forward;
mod gguf;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "some of it is for other tests")]
mod harness;
mod runner;
mod service;
mod toy;
mod witness;
