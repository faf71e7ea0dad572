//! An append-only log of verdicts: when which server was verified, what was found, and the token that shows it.
//!
//! Each line has its own hash and that of the line before, so that a byte that was changed or a line that was taken out
//! is found. The saved tokens can be verified again without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::answer::rfc3339;
use super::link::now;
use crate::client::{Measurements, RecheckError, Untrusted, Verdict, recheck};
use crate::protocol::Digest;

/// What the first line names.
const BEGINNING: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
/// What stands in front of a line's own hash, which is its last member.
const HASH: &str = ",\"hash\":\"";

/// The log; without a file nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    file: Option<Mutex<Log>>,
    /// What each server ran at its last good verdict before the start.
    trusted: BTreeMap<String, Measurements>,
}

#[derive(Debug)]
struct Log {
    file: File,
    last: String,
}

/// The result of verifying a server.
#[derive(Clone, Copy, Debug)]
pub(super) enum Noted<'a> {
    /// It is what the policy says.
    Trusted(&'a Verdict),
    /// It is what the policy says, and not what was verified first.
    Changed(&'a Verdict),
    /// It is not what the policy says.
    Untrusted(Untrusted),
}

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) lines: usize,
    /// The hash of the last line.
    pub(super) last: String,
    /// Tokens that were verified again.
    pub(super) tokens: usize,
    /// The keys that they are signed with.
    pub(super) keys: BTreeSet<String>,
    trusted: BTreeMap<String, Measurements>,
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
    /// A line's token does not show what the line says.
    #[error("line {0} of the log of verdicts: {1}")]
    Token(usize, RecheckError),
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
        let known = match File::open(&path) {
            Ok(file) => check(file, false)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Checked::default(),
            Err(error) => return Err(io(error)),
        };
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(io)?;
        let last = if known.lines == 0 { BEGINNING.to_owned() } else { known.last };
        Ok(Self { file: Some(Mutex::new(Log { file, last })), trusted: known.trusted })
    }

    /// What `server` ran at its last good verdict in the log.
    pub(super) fn last_trusted(&self, server: &str) -> Option<Measurements> {
        self.trusted.get(server).cloned()
    }

    /// Notes what came of verifying a server.
    pub(super) fn note(&self, server: &str, noted: Noted<'_>) {
        let Some(log) = self.file.as_ref() else { return };
        let (outcome, details, measured) = match noted {
            Noted::Trusted(verdict) => ("trusted", verdict.record(), Some(verdict.measurements())),
            Noted::Changed(verdict) => ("changed", verdict.record(), Some(verdict.measurements())),
            Noted::Untrusted(reason) => ("not trusted", json!({ "reason": reason }), None),
        };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let line = json!({
            "time": rfc3339(now()),
            "server": server,
            "outcome": outcome,
            "measurements": measured,
            "verdict": details,
            "previous": log.last,
        })
        .to_string();
        let Some(body) = line.strip_suffix('}') else { return };
        let hash = Digest::of(body.as_bytes()).to_string();
        // A full disk must not end the session; the chain shows what is missing only if something follows.
        if writeln!(log.file, "{body}{HASH}{hash}\"}}").is_ok() {
            log.last = hash;
        }
    }
}

/// Checks a log: each line's own hash and the one that it names. With `tokens` each saved token is verified as well, as of
/// the time at which it was saved.
///
/// # Errors
/// [`LogError`] with the first line that does not fit.
pub(super) fn check(file: File, tokens: bool) -> Result<Checked, LogError> {
    let mut checked = Checked { last: BEGINNING.to_owned(), ..Checked::default() };
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(|error| LogError::Io(error.kind()))?;
        if length == 0 {
            return Ok(checked);
        }
        checked.lines += 1;
        let broken = LogError::Broken(checked.lines);
        let (json, hash) = whole(&line).ok_or(broken)?;
        if json.get("previous").and_then(Value::as_str) != Some(checked.last.as_str()) {
            return Err(broken);
        }
        checked.last = hash;
        let Some(verdict) = json.get("verdict").filter(|verdict| verdict.get("saved").is_some()) else {
            continue;
        };
        if tokens {
            let key = recheck(verdict).map_err(|error| LogError::Token(checked.lines, error))?;
            checked.tokens += 1;
            checked.keys.insert(key);
        }
        let server = json.get("server").and_then(Value::as_str);
        let measured = json.get("measurements").cloned().and_then(|json| serde_json::from_value(json).ok());
        if let (Some(server), Some(measured), Some("trusted")) =
            (server, measured, json.get("outcome").and_then(Value::as_str))
        {
            checked.trusted.insert(server.to_owned(), measured);
        }
    }
}

/// A line whose own hash is right, and that hash.
fn whole(line: &[u8]) -> Option<(Value, String)> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (body, hash) = line.strip_suffix("\"}")?.rsplit_once(HASH)?;
    if Digest::of(body.as_bytes()).to_string() != hash {
        return None;
    }
    Some((serde_json::from_str(line).ok()?, hash.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_changed_or_taken_out_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/verdicts");
        for reason in [Untrusted::Build, Untrusted::Weights, Untrusted::Project] {
            let verdicts = Verdicts::open(path.clone()).unwrap();
            verdicts.note("http://h:1", Noted::Untrusted(reason));
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let checked = |text: &[u8]| {
            std::fs::write(&path, text).unwrap();
            check(File::open(&path).unwrap(), true).map(|checked| checked.lines)
        };
        assert_eq!(checked(text.as_bytes()), Ok(3));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(checked(format!("{}\n{}\n", lines[0], lines[2]).as_bytes()), Err(LogError::Broken(2)));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(matches!(checked(&bytes), Err(LogError::Broken(_))), "byte {at}");
        }
        assert!(matches!(Verdicts::open(path).unwrap_err(), LogError::Broken(3)));
    }
}
