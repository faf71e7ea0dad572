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
    Action, ConfigError, Limits, Logging, ModelOrigin, ModelsCommand, ServerArgs, ServerConfig, cache_for,
};
#[cfg(feature = "client")]
pub use self::table::client_configuration_table;
#[cfg(feature = "server")]
pub use self::table::configuration_table;

/// Parses what was typed, without looking at this process's environment: what a developer has set must decide no test.
#[cfg(test)]
fn typed<P: clap::CommandFactory + clap::FromArgMatches>(
    arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<P, clap::Error> {
    fn without_environment(command: clap::Command) -> clap::Command {
        let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        let command = command.mut_args(|argument| argument.env(None::<&str>));
        names.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_environment))
    }
    P::from_arg_matches(&without_environment(P::command()).try_get_matches_from(arguments)?)
}
