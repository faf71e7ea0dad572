//! Command line and environment, parsed once into validated configuration.
//!
//! Must not touch: network, GPU. Nothing below this module reads the environment.

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "server")]
mod server;
mod table;

#[cfg(feature = "server")]
pub use self::server::{
    Action, ConfigError, Limits, Logging, ModelOrigin, ModelsCommand, ServerArgs, ServerConfig, model_cache,
};
#[cfg(feature = "client")]
pub use self::table::client_configuration_table;
#[cfg(feature = "server")]
pub use self::table::configuration_table;
