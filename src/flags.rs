//! What the command lines share: value parsers for ranges of numbers.
//!
//! Allowed modules: none.
//! Forbidden: std::env.

#[cfg(feature = "server")]
use clap::builder::RangedU64ValueParser;

/// Upper bound of counts that have none of their own.
#[cfg(feature = "server")]
const MAX_COUNT: u64 = 1 << 28;

/// A number from 1 to `most`.
#[cfg(feature = "server")]
pub(crate) fn up_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// A number from 1 to a bound that fits in memory.
#[cfg(feature = "server")]
pub(crate) fn at_least_one() -> RangedU64ValueParser<usize> {
    up_to(MAX_COUNT)
}

/// A number of seconds from 1 to `most`.
#[cfg(feature = "server")]
pub(crate) fn seconds(most: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Parses a whole command line without this process's environment: a developer's settings must not change a test.
#[cfg(all(test, feature = "server"))]
pub(crate) fn typed<P: clap::CommandFactory + clap::FromArgMatches>(
    arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<P, clap::Error> {
    P::from_arg_matches(&without_environment(P::command()).try_get_matches_from(arguments)?)
}

/// As [`typed`], for the flags of one command; `flags` come without the program's name.
#[cfg(test)]
pub(crate) fn typed_args<A: clap::Args>(
    flags: impl IntoIterator<Item = impl Into<std::ffi::OsString> + Clone>,
) -> Result<A, clap::Error> {
    let command = A::augment_args(clap::Command::new("test").no_binary_name(true));
    A::from_arg_matches(&without_environment(command).try_get_matches_from(flags)?)
}

#[cfg(test)]
fn without_environment(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = command.mut_args(|argument| argument.env(None::<&str>));
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_environment))
}
