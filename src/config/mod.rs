//! The command lines of both programs, and what they read of the environment. Each command's flags and settings belong
//! to the module that it starts.
//!
//! Allowed modules: attestation, bench, client, eval, hub, loadtest, policy, proxy, sandbox, server.
//! Forbidden: axum, hyper, reqwest, std::net::Tcp*, tokio.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
mod server;
mod table;

#[cfg(feature = "server")]
pub use self::server::{Action, ServerArgs, UsageError, user_cache};
#[cfg(feature = "client")]
pub use self::table::client_configuration_table;
#[cfg(feature = "server")]
pub use self::table::configuration_table;
