//! The clients that editors use, unmodified, against the proxy: each completes, streams, cancels, and meets a server that
//! is down, not verified, busy, or cut off in the middle of a stream.
//!
//! They need packages that a fresh machine lacks, so these tests are ignored until an environment variable names the
//! program: `.ci/run python` and `.ci/run editors` install them and set it.

mod aider;
mod browser;
mod conductor;
mod driver;
mod editors;
mod node;
mod outcome;
mod python;
mod scenes;
mod snippets;
