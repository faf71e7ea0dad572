//! An append-only log of verdicts: when which server was looked at, and what was found. Each line names the hash of the
//! one before, so that a line that was changed or taken out is seen.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::answer::rfc3339;
use super::link::now;
use crate::client::{ClientError, Held};

/// What the first line names.
const BEGINNING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// The log; without a file nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    file: Option<Mutex<Log>>,
}

#[derive(Debug)]
struct Log {
    file: File,
    last: String,
}

/// What is wrong with a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It cannot be read or written.
    #[error("cannot use the log of verdicts: {0}")]
    Io(ErrorKind),
    /// A line is not what was written.
    #[error("line {0} of the log of verdicts is not what was written, or one before it was taken out")]
    Broken(usize),
}

impl Verdicts {
    /// Appends to the file at `path`, whose lines must be whole.
    ///
    /// # Errors
    /// [`LogError`].
    pub(super) fn open(path: PathBuf) -> Result<Self, LogError> {
        let io = |error: std::io::Error| LogError::Io(error.kind());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        let last = match File::open(&path) {
            Ok(file) => check(file)?.1,
            Err(error) if error.kind() == ErrorKind::NotFound => BEGINNING.to_owned(),
            Err(error) => return Err(io(error)),
        };
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io)?;
        Ok(Self { file: Some(Mutex::new(Log { file, last })) })
    }

    /// Notes what came of looking at a server.
    pub(super) fn note(&self, server: &str, verified: bool, begun: &Result<Held, ClientError>) {
        let Some(log) = self.file.as_ref().filter(|_| verified) else { return };
        let (outcome, details) = match begun {
            Ok(held) => ("trusted", held.verdict().map(crate::client::Verdict::to_json)),
            Err(ClientError::Untrusted(reason)) => ("not trusted", Some(json!({ "reason": reason }))),
            // Nothing was found out.
            Err(_) => return,
        };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let line = json!({
            "time": rfc3339(now()),
            "server": server,
            "outcome": outcome,
            "verdict": details,
            "previous": log.last,
        })
        .to_string();
        // A full disk must not end the session; the chain shows what is missing only if something follows.
        if writeln!(log.file, "{line}").is_ok() {
            log.last = hash(&line);
        }
    }
}

/// Checks a log: how many lines it has, and the hash of the last.
///
/// # Errors
/// [`LogError`] with the first line that does not fit.
pub(super) fn check(file: File) -> Result<(usize, String), LogError> {
    let (mut lines, mut last) = (0, BEGINNING.to_owned());
    for line in BufReader::new(file).lines() {
        let line = line.map_err(|error| LogError::Io(error.kind()))?;
        lines += 1;
        let json: Value = serde_json::from_str(&line).map_err(|_| LogError::Broken(lines))?;
        if json.get("previous").and_then(Value::as_str) != Some(last.as_str()) {
            return Err(LogError::Broken(lines));
        }
        last = hash(&line);
    }
    Ok((lines, last))
}

fn hash(line: &str) -> String {
    let digest = Sha256::digest(line.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Untrusted;

    #[test]
    fn a_line_that_was_changed_or_taken_out_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/verdicts");
        for reason in [Untrusted::Build, Untrusted::Weights, Untrusted::Project] {
            let verdicts = Verdicts::open(path.clone()).unwrap();
            verdicts.note("http://h:1", true, &Err(reason.into()));
            verdicts.note("http://h:1", true, &Err(ClientError::Unreachable("no")));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(check(File::open(&path).unwrap()).unwrap().0, 3);
        let lines: Vec<&str> = text.lines().collect();
        std::fs::write(&path, text.replacen("build", "bui1d", 1)).unwrap();
        assert_eq!(check(File::open(&path).unwrap()), Err(LogError::Broken(2)));
        std::fs::write(&path, format!("{}\n{}\n", lines[0], lines[2])).unwrap();
        assert_eq!(check(File::open(&path).unwrap()), Err(LogError::Broken(2)));
        assert_eq!(Verdicts::open(path).unwrap_err(), LogError::Broken(2));
    }
}
