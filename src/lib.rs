//! Confidential code completion: CodeGemma inside a Confidential Space VM, prompts sealed end to end.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`secret`] | the redacting, zeroizing types that every DEK, prompt and token lives in |
//! | [`protocol`] | wire types, seal and open, padding, stream frames; pure, shared by client and server |
//! | [`attestation`] | the launcher's token (file and socket), claims, policy profiles, JWT verification |
//! | [`files`] | small regular files, read within a bound and without waiting |
//! | [`keys`] | Cloud KMS client over reviving credentials, DEK cache |
//! | [`config`] | command line and environment → validated configuration |
//! | [`hub`] | model sources (`hf://`, `gs://`, a directory), verified against the manifest |
//! | [`machine`] | how much memory the machine and its control groups leave this process |
//! | [`model`] | the Gemma architecture: weights and forward pass |
//! | [`token`] | token ids |
//! | [`tokenizer`] | text to token ids and back, UTF-8 safe while streaming |
//! | [`prompt`] | CodeGemma's templates as token ids, budgets, stop matcher |
//! | [`engine`] | the one model thread and its async handle |
//! | [`mod@bench`] | how fast a model is on this machine |
//! | [`eval`] | the hole-filling benchmark |
//! | [`policy`] | launch policies linted, attribute conditions written and evaluated; pure |
//! | [`loadtest`] | load on a running server, as its clients see it |
//! | [`server`] | the HTTP face of the workload |
//! | [`telemetry`] | closed sets of log events and metrics, process hardening |
//! | [`client`] | the employee's side: session, transport, `complete`, `verify` |
//! | [`proxy`] | `codeseal proxy`: a completion server on loopback that seals what editors send |
//! | [`sandbox`] | a local Confidential Space on loopback |
//! | [`demo`] | the whole flow in one process |
//!
//! The arithmetic is a crate of its own, `codeseal-kernels`: the only place with `unsafe` code.
//!
//! What a module may use is written in its own doc comment and checked by `tests/it/architecture.rs`.
//!
//! Where programs and tests enter (`Service::start`, `Sandbox::start`, `demo::run` and others), futures are boxed: rustc compiles
//! the body of an `async fn` in the crate that polls it, so both programs and every test would compile the server again.
//!
//! Forbidden: candle_nn, candle_transformers.

#![forbid(unsafe_code)]

pub mod attestation;
#[cfg(feature = "server")]
pub mod bench;
#[cfg(feature = "client")]
pub mod client;
pub mod config;
#[cfg(all(feature = "server", feature = "client", feature = "sandbox"))]
pub mod demo;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod eval;
pub mod files;
mod flags;
#[cfg(feature = "server")]
pub mod hub;
#[cfg(any(feature = "server", feature = "client"))]
pub mod keys;
#[cfg(all(feature = "server", feature = "client"))]
pub mod loadtest;
#[cfg(feature = "server")]
pub mod machine;
#[cfg(feature = "server")]
pub mod model;
#[cfg(any(feature = "client", feature = "sandbox"))]
pub mod policy;
#[cfg(feature = "server")]
pub mod prompt;
pub mod protocol;
#[cfg(feature = "client")]
pub mod proxy;
#[cfg(feature = "server")]
mod rate;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod secret;
#[cfg(feature = "server")]
pub mod server;
pub mod telemetry;
#[cfg(feature = "server")]
pub mod token;
#[cfg(feature = "server")]
pub mod tokenizer;
#[cfg(any(feature = "client", feature = "server"))]
mod write_timeout;
