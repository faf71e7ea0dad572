//! The employee's configuration file: TOML, strict, optional.

use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::{self, ReadError};

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// The settings of the file, as written. Anything unknown in it is an error, so that a typo is not silence.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSettings {
    /// See `--server`: one, or several for `codeseal proxy`.
    pub server: Option<Servers>,
    /// See `--kms-key`.
    pub kms_key: Option<String>,
    /// See `--sandbox-endpoint`.
    #[cfg(feature = "sandbox")]
    pub sandbox_endpoint: Option<String>,
    /// See `--verify`.
    pub verify: Option<bool>,
    /// See `--policy`.
    pub policy: Option<PathBuf>,
    /// See `--max-tokens`.
    pub max_tokens: Option<NonZeroUsize>,
    /// See `--temperature`.
    pub temperature: Option<f64>,
    /// See `--stop`.
    pub stop: Option<Vec<String>>,
    /// See `--context-bytes`.
    pub context_bytes: Option<NonZeroUsize>,
    /// See `--timeout-secs`.
    pub timeout_secs: Option<u64>,
    /// What `codeseal proxy` asks each server for before it is used, and what the answer begins with.
    pub golden: Option<GoldenSettings>,
}

/// A hole and the text that the model must fill it with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSettings {
    /// The text before the hole.
    pub prefix: String,
    /// The text after it.
    #[serde(default)]
    pub suffix: String,
    /// What the answer begins with.
    pub expected: String,
}

/// One server or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Servers {
    /// One.
    One(String),
    /// Several, in the order of preference.
    Several(Vec<String>),
}

/// Why the configuration file cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It is there, and yet cannot be read.
    #[error("cannot read the configuration file, {path}: {why}")]
    Read {
        /// Where it was looked for.
        path: String,
        /// Why not.
        why: String,
    },
    /// It is not TOML, or holds something unknown.
    #[error("line {line} of the configuration file: {message}")]
    Parse {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

impl Servers {
    /// All of them.
    pub fn all(self) -> Vec<String> {
        match self {
            Self::One(server) => vec![server],
            Self::Several(servers) => servers,
        }
    }

    /// The preferred one.
    pub fn first(self) -> Option<String> {
        self.all().into_iter().next()
    }
}

impl FileSettings {
    /// What may stand in the file.
    pub const KEYS: &[&str] = &[
        "server",
        "kms_key",
        #[cfg(feature = "sandbox")]
        "sandbox_endpoint",
        "verify",
        "policy",
        "max_tokens",
        "temperature",
        "stop",
        "context_bytes",
        "timeout_secs",
        "golden",
    ];

    /// Reads the file at `path`; none is no error.
    ///
    /// # Errors
    /// [`FileError`] if it is there and cannot be used.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        match files::read_text(path, MAX_BYTES) {
            Ok(text) => Self::parse(&text),
            Err(ReadError::Io(error))
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Ok(Self::default())
            }
            Err(error) => Err(FileError::Read {
                path: format!("{:?}", path.display().to_string()),
                why: error.to_string(),
            }),
        }
    }

    fn parse(text: &str) -> Result<Self, FileError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|&byte| byte == b'\n').count() + 1;
            FileError::Parse { line, message: error.message().replace('\n', ", ") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = FileSettings::parse("server = \"http://a\"\nkms-key = \"b\"\n").unwrap_err();
        let FileError::Parse { line, message } = error else { panic!("{error}") };
        assert_eq!(line, 2);
        assert!(message.contains("`kms-key`"), "{message}");
    }

    #[test]
    fn the_list_of_keys_is_what_the_file_may_hold() {
        let FileError::Parse { message, .. } = FileSettings::parse("nonsense = 1").unwrap_err() else {
            panic!("nonsense is no setting")
        };
        let (_, known) = message.split_once("expected one of ").unwrap();
        let known: Vec<_> = known.split('`').filter(|part| part.starts_with(char::is_alphabetic)).collect();
        assert_eq!(known, FileSettings::KEYS);
    }

    #[test]
    fn a_wrong_type_is_an_error() {
        assert!(matches!(FileSettings::parse("max_tokens = 0"), Err(FileError::Parse { line: 1, .. })));
        assert!(FileSettings::parse("temperature = \"warm\"").is_err());
    }

    #[test]
    fn no_file_is_no_error() {
        assert!(FileSettings::read(Path::new("/nonexistent/codeseal/config.toml")).unwrap().server.is_none());
    }

    #[test]
    fn what_is_no_regular_file_of_this_size_is_an_error_that_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let error = FileSettings::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("it is a directory, not a regular file"), "{error}");
        let error = FileSettings::read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("\"/dev/zero\": it is a device"), "{error}");
        let long = dir.path().join("config.toml");
        std::fs::write(&long, "#".repeat(65 * 1024)).unwrap();
        let error = FileSettings::read(&long).unwrap_err().to_string();
        assert!(error.contains("longer than 65536 bytes"), "{error}");
    }
}
