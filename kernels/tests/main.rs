//! Each CUDA kernel against its reference, run on the CPU by the emulator through the launchers that a GPU would get.
//!
//! `KERNELS_EMU=address` and `KERNELS_EMU=race` build the same tests with further checks; `.ci/kernels` runs both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod attention;
mod elementwise;
mod norm;
mod planted;
mod products;
mod recording;
mod sampling;
