//! One integration binary: everything through public surfaces, all traffic on loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod api;
mod architecture;
mod attestation;
mod bad_input;
mod bench;
mod canary;
mod choices;
mod client;
mod conditions;
mod cuda_build;
mod demo;
mod docs;
mod eval;
mod faults;
mod golden;
mod gpu_check;
mod harness;
mod http;
mod hub;
mod isolation;
mod keys;
mod limits;
mod loadtest;
mod misconfigured;
mod model;
mod openai;
mod policy;
mod proxy;
mod python_client;
mod readiness;
mod repository;
mod sandbox;
mod shutdown;
mod signing;
mod soak;
mod startup;
mod streaming;
mod turned;
mod vectors;
mod verify;
