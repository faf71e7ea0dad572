//! Cases of the benchmark: pieces of code with a hole, one JSON object a line.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files;

/// The largest file of cases that is read, in bytes.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;

/// A hole, what is around it, and what stood in it.
#[derive(Clone, Deserialize)]
pub(super) struct Case {
    /// What examples call it.
    pub(super) name: String,
    pub(super) prefix: String,
    pub(super) suffix: String,
    pub(super) middle: String,
    pub(super) kind: Kind,
}

/// How far a hole reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// To the end of the line at most: an answer ends there too.
    Single,
    /// Over several lines.
    Multi,
}

/// Why a file holds no cases.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    /// The file is missing, too large, not readable or not UTF-8.
    #[error("cannot read the cases: {0}")]
    Read(#[from] io::Error),
    /// A line is not a case.
    #[error("line {line} of the cases is malformed: {source}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it; the place that it names is one within the line.
        source: serde_json::Error,
    },
    /// No answer could ever be right.
    #[error("line {line} of the cases is malformed: the middle of a single-line hole has several lines")]
    NotSingle {
        /// Counted from 1.
        line: usize,
    },
    /// There is nothing but empty lines.
    #[error("there are no cases in the file")]
    Empty,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Multi => "multi",
        }
    }
}

/// Reads the first `limit` cases of a file, or all; every line is checked all the same.
///
/// # Errors
/// [`CasesError`]
pub(super) fn read(path: &Path, limit: Option<usize>) -> Result<Vec<Case>, CasesError> {
    let text = String::from_utf8(files::read_argument(path, MAX_FILE_BYTES).map_err(io::Error::from)?);
    let text = text.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let mut cases = parse(&text)?;
    cases.truncate(limit.unwrap_or(usize::MAX));
    Ok(cases)
}

fn parse(text: &str) -> Result<Vec<Case>, CasesError> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let cases = lines.map(|(number, line)| parse_line(number, line)).collect::<Result<Vec<_>, _>>()?;
    if cases.is_empty() { Err(CasesError::Empty) } else { Ok(cases) }
}

fn parse_line(line: usize, text: &str) -> Result<Case, CasesError> {
    let case: Case = serde_json::from_str(text).map_err(|source| CasesError::Malformed { line, source })?;
    if case.kind == Kind::Single && case.middle.contains('\n') {
        return Err(CasesError::NotSingle { line });
    }
    Ok(case)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINGLE: &str = r#"{"name":"a:1","prefix":"x = ","suffix":"\n","middle":"1","kind":"single"}"#;
    const MULTI: &str = r#"{"name":"b","prefix":"","suffix":"","middle":"1\n2","kind":"multi","more":[]}"#;

    fn message(text: &str) -> String {
        parse(text).err().unwrap().to_string()
    }

    #[test]
    fn a_case_is_a_line_and_empty_lines_are_none() {
        let cases = parse(&format!("{SINGLE}\r\n\n  \n{MULTI}\n")).unwrap();
        let kinds: Vec<_> = cases.iter().map(|case| (case.name.as_str(), case.kind)).collect();
        assert_eq!(kinds, [("a:1", Kind::Single), ("b", Kind::Multi)]);
        assert_eq!((cases[0].prefix.as_str(), cases[0].suffix.as_str()), ("x = ", "\n"));
        assert_eq!(cases[1].middle, "1\n2");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let kind = SINGLE.replace("single", "double");
        assert!(message(&format!("{SINGLE}\n\n{kind}")).starts_with("line 3 "));
        let missing = message(&SINGLE.replace("middle", "muddle"));
        assert!(missing.starts_with("line 1 ") && missing.contains("`middle`"), "{missing}");
        for bad in ["{", "7", r#""text""#, "[]"] {
            assert!(message(&format!("{MULTI}\n{bad}")).starts_with("line 2 "), "{bad}");
        }
        assert!(message(&MULTI.replace("multi", "single")).contains("several lines"));
    }

    #[test]
    fn a_file_without_cases_is_refused() {
        for text in ["", "\n \n"] {
            assert!(matches!(parse(text), Err(CasesError::Empty)));
        }
    }

    #[test]
    fn a_limit_takes_the_first_but_all_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cases.jsonl");
        std::fs::write(&path, format!("{SINGLE}\n{MULTI}\n")).unwrap();
        assert_eq!(read(&path, None).unwrap().len(), 2);
        assert_eq!(read(&path, Some(1)).unwrap()[0].kind, Kind::Single);
        std::fs::write(&path, format!("{SINGLE}\n{{\n")).unwrap();
        assert!(matches!(read(&path, Some(1)), Err(CasesError::Malformed { line: 2, .. })));
        assert!(matches!(read(dir.path(), None), Err(CasesError::Read(_))));
    }
}
