//! The settings of `codeseal complete` and `codeseal verify`: flags, then environment, then configuration file →
//! validated settings.

mod args;
mod file;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[cfg(feature = "sandbox")]
use http::Uri;

pub(crate) use self::args::EXIT_CODES;
pub use self::args::{CompleteArgs, VerifyArgs};
pub use self::file::{FileError, FileSettings, GoldenSettings, Servers};
use super::fim::Cursor;
use super::input::InputSource;
use super::request::CompletionOptions;
use super::transport::Origin;
use super::verify::{Policy, PolicyError};
use crate::files::{self, ReadError};
use crate::keys::{Endpoint, KeyName, WrapConfig};
use crate::protocol::openai::MAX_STOPS;
use crate::secret::Secret;

/// How long `complete` waits for its whole answer, in seconds, unless told otherwise.
const DEFAULT_TIMEOUT_SECS: u64 = 120;
/// The most that may be asked for, in seconds: a forgotten terminal must not wait for days.
const MAX_TIMEOUT_SECS: u64 = 3600;
/// The largest file that is read of those named on the command line, in bytes: conditions, claims, images.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// How much of a file goes with a cursor, in bytes: about 5000 tokens of code, of CodeGemma's 8192.
const DEFAULT_CONTEXT_BYTES: usize = 16 * 1024;

/// Everything that `codeseal complete` needs, validated.
#[derive(Debug)]
pub struct CompleteConfig {
    /// Where the server is.
    pub server: Origin,
    /// The key that wraps the session's DEK, and the service that does it.
    pub keys: WrapConfig,
    /// What the server must be, if that is to be verified.
    pub policy: Option<Policy>,
    /// Where the prompt comes from.
    pub source: InputSource,
    /// Bytes of a file that go with a cursor at most.
    pub context_bytes: usize,
    /// How it is generated.
    pub options: CompletionOptions,
    /// Whether the text is printed while it is being generated.
    pub stream: bool,
    /// Whether the sealed traffic is printed.
    pub show_sealed: bool,
    /// How long the whole answer may take, retries included.
    pub timeout: Duration,
}

/// Everything that `codeseal verify` needs, validated.
#[derive(Debug)]
pub struct VerifyConfig {
    /// Where the server is.
    pub server: Origin,
    /// What it must be.
    pub policy: Policy,
    /// Whether the report is for a program.
    pub json: bool,
    /// How long all answers together may take.
    pub timeout: Duration,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file named on the command line cannot be read.
    #[error("cannot read the file given to {flag}, {path}: {why}")]
    File {
        /// The flag.
        flag: &'static str,
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// The configuration file is wrong.
    #[error("{0}")]
    ConfigFile(#[from] FileError),
    /// The policy is wrong.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// A setting is given nowhere.
    #[error("no {what}: give {flag}, set {variable}, or put `{key}` in the configuration file")]
    Missing {
        /// The setting in words.
        what: &'static str,
        /// Its flag.
        flag: &'static str,
        /// Its environment variable.
        variable: &'static str,
        /// Its name in the configuration file.
        key: &'static str,
    },
    /// A setting has a value that it cannot have.
    #[error("{setting}: {must}")]
    Invalid {
        /// The setting, as the flag is called.
        setting: &'static str,
        /// What it must be.
        must: String,
    },
}

impl CompleteArgs {
    /// Fills what was not given from `file` and checks everything.
    ///
    /// # Errors
    /// [`SettingsError`]: which setting is missing or wrong.
    pub fn resolve(self, file: FileSettings) -> Result<CompleteConfig, SettingsError> {
        let server = server(self.server, file.server.and_then(Servers::first))?;
        let verify = self.verify || file.verify.unwrap_or(false);
        let policy = if verify { Some(policy(self.policy, file.policy)?) } else { None };
        #[cfg(feature = "sandbox")]
        let sandbox = given(self.sandbox_endpoint).or(file.sandbox_endpoint);
        #[cfg(not(feature = "sandbox"))]
        let sandbox = None;
        let keys = wrap_config(given(self.kms_key).or(file.kms_key), sandbox)?;
        let stop = if self.stop.is_empty() { file.stop.unwrap_or_default() } else { self.stop };
        Ok(CompleteConfig {
            server,
            policy,
            keys,
            source: source(self.fim, self.file, self.prompt)?,
            context_bytes: self
                .context_bytes
                .or(file.context_bytes)
                .map_or(DEFAULT_CONTEXT_BYTES, NonZeroUsize::get),
            options: CompletionOptions {
                max_tokens: self.max_tokens.or(file.max_tokens).map(NonZeroUsize::get),
                temperature: self.temperature.or(file.temperature).map(temperature).transpose()?,
                stop: stops(stop)?,
            },
            stream: self.stream,
            show_sealed: self.show_sealed,
            timeout: timeout(self.timeout_secs.or(file.timeout_secs))?,
        })
    }
}

impl VerifyArgs {
    /// Fills what was not given from `file` and checks everything.
    ///
    /// # Errors
    /// [`SettingsError`]: which setting is missing or wrong.
    pub fn resolve(self, file: FileSettings) -> Result<VerifyConfig, SettingsError> {
        Ok(VerifyConfig {
            server: server(self.server, file.server.and_then(Servers::first))?,
            policy: policy(self.policy, file.policy)?,
            json: self.json,
            timeout: timeout(self.timeout_secs.or(file.timeout_secs))?,
        })
    }
}

/// Reads a file that was named on the command line.
pub(crate) fn read_file(flag: &'static str, path: &Path) -> Result<String, SettingsError> {
    let read = files::read_argument(path, MAX_FILE_BYTES)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| ReadError::NotUtf8));
    read.map_err(|error| SettingsError::File {
        flag,
        // Escaped: a name may hold anything.
        path: format!("{:?}", path.display().to_string()),
        why: error.to_string(),
    })
}

fn server(flag: Option<String>, file: Option<String>) -> Result<Origin, SettingsError> {
    let server = given(flag).or(file).ok_or(SettingsError::Missing {
        what: "server",
        flag: "--server",
        variable: "CODESEAL_SERVER",
        key: "server",
    })?;
    server.parse().map_err(|error| invalid("--server", error))
}

/// How DEKs are wrapped: by `key`, with a sandbox if there is the URL of one.
pub(crate) fn wrap_config(key: Option<String>, sandbox: Option<String>) -> Result<WrapConfig, SettingsError> {
    let key = key.ok_or(SettingsError::Missing {
        what: "key",
        flag: "--kms-key",
        variable: "CODESEAL_KMS_KEY",
        key: "kms_key",
    })?;
    #[cfg(feature = "sandbox")]
    let endpoint = match sandbox {
        Some(url) => Endpoint::Sandbox(loopback(&url)?),
        None => Endpoint::Google,
    };
    #[cfg(not(feature = "sandbox"))]
    let endpoint = {
        let _: Option<String> = sandbox;
        Endpoint::Google
    };
    let key = key.parse::<KeyName>().map_err(|error| invalid("--kms-key", error))?;
    Ok(WrapConfig { key, endpoint })
}

pub(crate) fn policy(flag: Option<PathBuf>, file: Option<PathBuf>) -> Result<Policy, SettingsError> {
    let policy = flag.filter(|path| !path.as_os_str().is_empty()).or(file);
    let path = policy.ok_or(SettingsError::Missing {
        what: "policy",
        flag: "--policy",
        variable: "CODESEAL_POLICY",
        key: "policy",
    })?;
    Ok(Policy::read(&path)?)
}

/// An empty variable is one that is not set.
pub(crate) fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

pub(crate) fn invalid(setting: &'static str, error: impl std::fmt::Display) -> SettingsError {
    SettingsError::Invalid { setting, must: error.to_string() }
}

fn source(
    fim: Option<Cursor>,
    file: Option<PathBuf>,
    prompt: Option<String>,
) -> Result<InputSource, SettingsError> {
    match (fim, file, prompt) {
        (Some(cursor), None, None) => Ok(InputSource::Cursor(cursor)),
        (None, Some(path), None) => Ok(InputSource::File(path)),
        (None, None, Some(prompt)) if prompt == "-" => Ok(InputSource::Stdin),
        (None, None, Some(prompt)) => Ok(InputSource::Text(Secret::new(prompt))),
        _ => Err(invalid("the prompt", "must be given once: as an argument, with --file or with --fim")),
    }
}

fn temperature(value: f64) -> Result<f64, SettingsError> {
    if (0.0..=2.0).contains(&value) {
        Ok(value)
    } else {
        Err(invalid("--temperature", "must be from 0 to 2"))
    }
}

fn stops(stops: Vec<String>) -> Result<Vec<Secret<String>>, SettingsError> {
    if stops.len() > MAX_STOPS {
        return Err(invalid("--stop", format_args!("may be given {MAX_STOPS} times at most")));
    }
    if stops.iter().any(String::is_empty) {
        return Err(invalid("--stop", "must not be empty"));
    }
    Ok(stops.into_iter().map(Secret::new).collect())
}

fn timeout(secs: Option<u64>) -> Result<Duration, SettingsError> {
    let secs = secs.unwrap_or(DEFAULT_TIMEOUT_SECS);
    if (1..=MAX_TIMEOUT_SECS).contains(&secs) {
        Ok(Duration::from_secs(secs))
    } else {
        Err(invalid("--timeout-secs", format_args!("must be from 1 to {MAX_TIMEOUT_SECS}")))
    }
}

/// The sandbox gets the session's key in the clear, so it must be on this machine.
#[cfg(feature = "sandbox")]
pub(crate) fn loopback(url: &str) -> Result<String, SettingsError> {
    let wrong = || invalid("--sandbox-endpoint", "must be an http:// address of this machine");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let is_local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    let is_bare = uri.path() == "/" && uri.query().is_none() && !url.contains('@');
    if uri.scheme_str() == Some("http") && is_local && is_bare {
        Ok(url.trim_end_matches('/').to_owned())
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::typed_args;

    const KEY: &str = "projects/p/locations/global/keyRings/r/cryptoKeys/k";

    fn complete(flags: &[&str]) -> Result<CompleteArgs, clap::Error> {
        typed_args(flags)
    }

    fn file(text: &str) -> FileSettings {
        toml::from_str(text).unwrap()
    }

    fn whole(flags: &[&str]) -> Result<CompleteConfig, SettingsError> {
        let always = ["--server", "http://h:1", "--kms-key", KEY];
        let all: Vec<&str> = always.iter().chain(flags).copied().collect();
        complete(&all).unwrap().resolve(FileSettings::default())
    }

    #[test]
    fn flags_win_over_the_file() {
        let settings =
            format!("server = \"http://file:1\"\nkms_key = \"{KEY}\"\nmax_tokens = 3\nstop = [\"a\"]");
        let config = complete(&["--server", "http://flag:2", "x"]).unwrap().resolve(file(&settings)).unwrap();
        assert_eq!(config.server.to_string(), "http://flag:2");
        assert_eq!(config.options.max_tokens, Some(3));
        assert_eq!(config.options.stop.len(), 1);
        let config = complete(&["--max-tokens", "5", "--stop", "b", "--stop", "c", "x"]).unwrap();
        let config = config.resolve(file(&settings)).unwrap();
        assert_eq!((config.options.max_tokens, config.options.stop.len()), (Some(5), 2));
    }

    #[test]
    fn a_missing_setting_says_where_it_can_be_given() {
        let error = complete(&["x"]).unwrap().resolve(FileSettings::default()).unwrap_err().to_string();
        for word in ["--server", "CODESEAL_SERVER", "`server`"] {
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn exactly_one_prompt_is_taken() {
        assert!(complete(&[]).is_err());
        assert!(complete(&["--file", "f", "x"]).is_err());
        assert!(complete(&["--file", "f", "--fim", "f:1:1"]).is_err());
        assert!(matches!(whole(&["-"]).unwrap().source, InputSource::Stdin));
        assert!(
            matches!(whole(&["--", "--x"]).unwrap().source, InputSource::Text(text) if text.expose() == "--x")
        );
        assert!(matches!(whole(&["--file", "f"]).unwrap().source, InputSource::File(_)));
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (flags, word) in [
            (&["--temperature", "2.5", "x"][..], "--temperature"),
            (&["--temperature", "NaN", "x"], "--temperature"),
            (&["--stop", "", "x"], "--stop"),
            (&["--timeout-secs", "0", "x"], "--timeout-secs"),
            (&["--server", "ftp://h", "x"], "--server"),
            (&["--kms-key", "k", "x"], "--kms-key"),
        ] {
            let defaults = format!("server = \"http://file:1\"\nkms_key = \"{KEY}\"");
            let error = complete(flags).unwrap().resolve(file(&defaults)).unwrap_err().to_string();
            assert!(error.starts_with(word), "{error}");
        }
    }

    #[cfg(feature = "sandbox")]
    #[test]
    fn a_sandbox_must_be_on_this_machine() {
        for good in ["http://127.0.0.1:8", "http://localhost:8/", "http://[::1]:8"] {
            assert!(whole(&["--sandbox-endpoint", good, "x"]).is_ok(), "{good}");
        }
        for bad in
            ["http://10.0.0.1:8", "https://127.0.0.1:8", "http://127.0.0.1@evil:8", "http://127.0.0.1:8/x"]
        {
            assert!(whole(&["--sandbox-endpoint", bad, "x"]).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_do_not_print_the_prompt() {
        let config = whole(&["--stop", "canary", "canary"]).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }
}
