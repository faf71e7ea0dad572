//! The CUDA kernels, run on this machine's processor by `kernels-emu` through the launchers that a GPU would get.
//!
//! `KERNELS_EMU=address` and `KERNELS_EMU=race` build the same tests with further checks; `.ci/run` does both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod attention;
mod bench;
mod device;
mod elementwise;
mod engine;
mod faults;
mod forward;
#[path = "../it/harness.rs"]
#[allow(dead_code, reason = "some of it is for other tests")]
mod harness;
mod norm;
mod numbers;
mod pages;
mod planted;
mod products;
mod runner;
mod sampling;
mod service;
mod toy;
mod weights;
