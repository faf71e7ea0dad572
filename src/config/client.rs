//! The command line of `codeseal`: its subcommands.

mod policy;

use std::ffi::OsString;
use std::path::PathBuf;

#[cfg(feature = "sandbox")]
use clap::Args;
use clap::{Parser, Subcommand};

pub use self::policy::PolicyArgs;
use super::shell::{CompletionsArgs, ManArgs};
#[cfg(feature = "sandbox")]
use crate::client::SettingsError;
use crate::client::config::EXIT_CODES;
#[cfg(feature = "sandbox")]
use crate::client::config::{invalid, read_file};
use crate::client::{CompleteArgs, VerifyArgs};
use crate::proxy::ProxyArgs;
#[cfg(feature = "sandbox")]
use crate::sandbox::SandboxConfig;

/// Confidential code completion: prompts are sealed here and opened only by an attested workload.
#[derive(Parser)]
#[command(name = "codeseal", version, after_help = EXIT_CODES, max_term_width = 100)]
pub struct ClientArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands of `codeseal`.
#[derive(Subcommand)]
pub enum Command {
    /// Complete code; the generated text, exactly, goes to stdout and nothing else does
    Complete(Box<CompleteArgs>),
    /// Verify a server's attestation against a policy; says what was proven and what was not
    Verify(VerifyArgs),
    /// Serve editors on this machine through the APIs that they use, and seal their requests
    Proxy(Box<ProxyArgs>),
    /// Lint a launch policy, write an attribute condition, or test one
    #[command(subcommand)]
    Policy(PolicyArgs),
    /// Run a local Confidential Space: launcher, token exchange and key service on loopback
    #[cfg(feature = "sandbox")]
    Sandbox(SandboxArgs),
    /// Show the whole flow on this machine: no account, no GPU, nothing downloaded
    #[cfg(all(feature = "server", feature = "sandbox"))]
    Demo,
    /// Print a script that completes command lines in a shell
    Completions(CompletionsArgs),
    /// Write the man pages of all commands
    Man(ManArgs),
}

/// The flags of `codeseal sandbox`.
#[cfg(feature = "sandbox")]
#[derive(Args, Debug)]
pub struct SandboxArgs {
    /// Where to listen; loopback only, port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: std::net::SocketAddr,

    /// Where the launcher's token file and socket are put
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,

    /// The attribute condition (CEL) that a workload must meet to get the key [default: the codelab's]
    #[arg(long, value_name = "FILE")]
    condition: Option<PathBuf>,

    /// The claims (JSON) that the launcher attests [default: those of a good workload]
    #[arg(long, value_name = "FILE")]
    claims: Option<PathBuf>,
}

#[cfg(feature = "sandbox")]
impl SandboxArgs {
    /// Reads the files that were named.
    ///
    /// # Errors
    /// [`SettingsError`]: which flag is wrong.
    pub fn resolve(self) -> Result<SandboxConfig, SettingsError> {
        let read = |flag, path: &Option<PathBuf>| match path {
            Some(path) => read_file(flag, path).map(Some),
            None => Ok(None),
        };
        let claims = read("--claims", &self.claims)?;
        let claims = claims.map(|text| serde_json::from_str(&text)).transpose();
        if !self.listen.ip().is_loopback() {
            return Err(invalid(
                "--listen",
                "must be an address of this machine: a sandbox protects nothing",
            ));
        }
        Ok(SandboxConfig {
            listen: self.listen,
            dir: self.dir,
            condition: read("--condition", &self.condition)?,
            claims: claims.map_err(|_| invalid("--claims", "must be the name of a JSON file"))?,
            ..SandboxConfig::default()
        })
    }
}

/// The configuration file: `$XDG_CONFIG_HOME/codeseal/config.toml`, or `~/.config/codeseal/config.toml`; `None` if there
/// is no home.
pub fn settings_file() -> Option<PathBuf> {
    path(std::env::var_os("XDG_CONFIG_HOME"), std::env::var_os("HOME"))
}

/// A relative `XDG_CONFIG_HOME` is to be ignored, says its specification; so is an empty variable.
fn path(xdg_config_home: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    let directory =
        xdg_config_home.and_then(absolute).or_else(|| Some(home.and_then(absolute)?.join(".config")));
    Some(directory?.join("codeseal/config.toml"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        ClientArgs::command().debug_assert();
    }

    #[test]
    fn the_file_is_where_xdg_says() {
        for (xdg, home, expected) in [
            (Some("/x"), Some("/h"), Some("/x/codeseal/config.toml")),
            (Some("x"), Some("/h"), Some("/h/.config/codeseal/config.toml")),
            (Some(""), Some("/h"), Some("/h/.config/codeseal/config.toml")),
            (None, Some("/h"), Some("/h/.config/codeseal/config.toml")),
            (None, None, None),
        ] {
            assert_eq!(path(xdg.map(Into::into), home.map(Into::into)), expected.map(PathBuf::from));
        }
    }
}
