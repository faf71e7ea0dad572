//! The command line of `codeseal-server`: subcommands and the flags of serving.

use std::path::PathBuf;

use clap::{ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};

use crate::bench::{BenchArgs, BenchConfig, CheckArgs, CheckConfig};
use crate::eval::{EvalCommand, FimConfig};
use crate::hub::ModelsCommand;
#[cfg(feature = "client")]
use crate::loadtest::{LoadtestArgs, LoadtestConfig, LoadtestConfigError};
use crate::server::{ServeArgs, ServerConfig, ServerConfigError};

const EXIT_CODES: &str = "\
Exit codes:
  0   stopped by a signal, with every request that was running answered
  64  wrong usage or configuration
  69  too little memory, or no CUDA device where one is asked for, or it failed
  70  internal failure
  75  stopped because the attestation token expired (--on-token-expiry exit)
  78  this machine's attestation does not fit --profile; no port was opened

On Confidential Space, configuration belongs into the image, where it is measured: leave
tee.launch_policy.allow_env_override empty and allow_cmd_override false.";

/// A confidential workload that completes code: prompts are opened here and nowhere else.
#[derive(Parser)]
#[command(
    name = "codeseal-server",
    version,
    after_help = EXIT_CODES,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct ServerArgs {
    // Before the subcommand, which parsing takes out of the matches.
    #[command(flatten)]
    serve: Serving,

    #[command(subcommand)]
    command: Option<ServerCommand>,
}

/// The flags of serving; none with a subcommand. An image has variables of the environment for them, which must not matter
/// to a subcommand that is run in it.
struct Serving(Option<ServeArgs>);

impl FromArgMatches for Serving {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let serving = matches.subcommand_name().is_none();
        serving.then(|| ServeArgs::from_arg_matches(matches)).transpose().map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Serving {
    fn augment_args(command: Command) -> Command {
        ServeArgs::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        ServeArgs::augment_args_for_update(command)
    }
}

/// What `codeseal-server` does besides serving.
#[derive(Subcommand)]
enum ServerCommand {
    /// Measure prefill and decode speed on this machine; needs neither keys nor attestation
    Bench(BenchArgs),

    /// Check that the kernels of the CPU or of a CUDA device compute what candle does, and the device what the CPU does; needs
    /// neither a model nor keys
    KernelsCheck(CheckArgs),

    /// Evaluate a model; needs neither keys nor attestation
    #[command(subcommand)]
    Eval(EvalCommand),

    /// Put load on a running server through the seal, and report latency and throughput
    #[cfg(feature = "client")]
    Loadtest(Box<LoadtestArgs>),

    /// Manage models/manifest.toml
    #[command(subcommand)]
    Models(ModelsCommand),
}

/// What `codeseal-server` is to do.
pub enum Action {
    /// Measure how fast a model is.
    Bench(BenchConfig),
    /// Check a CUDA device.
    KernelsCheck(CheckConfig),
    /// Serve.
    Serve(Box<ServerConfig>),
    /// Measure how a model fills holes.
    EvalFim(FimConfig),
    /// Put load on a running server.
    #[cfg(feature = "client")]
    Loadtest(Box<LoadtestConfig>),
    /// Look after the manifest.
    Models(ModelsCommand),
}

/// Flags that exclude each other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// Of serving.
    #[error(transparent)]
    Serve(#[from] ServerConfigError),
    /// Of the load test.
    #[cfg(feature = "client")]
    #[error(transparent)]
    Loadtest(#[from] LoadtestConfigError),
}

impl ServerArgs {
    /// What to do, checked.
    ///
    /// # Errors
    /// [`UsageError`] for flags that exclude each other.
    pub fn resolve(self) -> Result<Action, UsageError> {
        match (self.command, self.serve.0) {
            (Some(ServerCommand::Bench(args)), _) => Ok(Action::Bench(args.resolve())),
            (Some(ServerCommand::KernelsCheck(args)), _) => Ok(Action::KernelsCheck(args.resolve())),
            (Some(ServerCommand::Eval(EvalCommand::Fim(args))), _) => Ok(Action::EvalFim(args.resolve())),
            #[cfg(feature = "client")]
            (Some(ServerCommand::Loadtest(args)), _) => Ok(Action::Loadtest(Box::new(args.resolve()?))),
            (Some(ServerCommand::Models(command)), _) => Ok(Action::Models(command)),
            (None, Some(serve)) => Ok(Action::Serve(Box::new(serve.resolve(user_cache())?))),
            // clap has refused this already: the flags of serving are required without a subcommand.
            (None, None) => Err(ServerConfigError::NoProfile.into()),
        }
    }
}

/// The directory for downloads in the user's cache directory; `None` if there is no home.
pub fn user_cache() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").map(|cache| cache.join("codeseal"));
    cache.or_else(|| variable("HOME").map(|home| home.join(".cache/codeseal")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::flags::typed;
    use crate::model::Quantize;

    #[test]
    fn the_command_line_is_sound() {
        ServerArgs::command().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_name() {
        for arg in ServerArgs::command().get_arguments().filter(|arg| arg.get_long() != Some("help")) {
            let flag = arg.get_long().unwrap().replace('-', "_").to_uppercase();
            if flag != "VERSION" {
                assert_eq!(arg.get_env().unwrap().to_str().unwrap(), format!("CODESEAL_{flag}"));
            }
        }
    }

    #[test]
    fn locking_a_model_needs_none_of_the_flags_of_serving() {
        let args = ["codeseal-server", "models", "lock", "--model", "hf://google/codegemma-2b"];
        let args = typed::<ServerArgs>(args).unwrap();
        assert!(matches!(args.resolve().unwrap(), Action::Models(ModelsCommand::Lock { .. })));
    }

    #[test]
    fn measuring_a_model_needs_none_of_the_flags_of_serving() {
        let args =
            ["codeseal-server", "eval", "fim", "--model", "models/tiny", "--cases", "c", "--quantize", "q4k"];
        let args = typed::<ServerArgs>(args).unwrap();
        let Action::EvalFim(config) = args.resolve().unwrap() else { panic!("another subcommand was named") };
        assert_eq!((config.model_name.as_str(), config.quantize), ("tiny", Quantize::Q4K));
    }
}
