//! Where a prompt comes from, and what of it is sent.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::fim::{self, Cursor, CursorError};
use super::line_ends::{LineEnds, to_lf};
use crate::secret::Secret;

/// The longest prompt that is read, in bytes: far more than any context holds.
const MAX_PROMPT_BYTES: u64 = 1024 * 1024;
/// The longest file that a cursor may be in, in bytes: only what is around the cursor is sent.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Where the prompt comes from.
#[derive(Debug)]
pub enum InputSource {
    /// A position in a file.
    Cursor(Cursor),
    /// A whole file.
    File(PathBuf),
    /// Standard input.
    Stdin,
    /// The command line.
    Text(Secret<String>),
}

/// What is to be completed.
#[derive(Debug)]
pub struct Prompt {
    /// What stands before the completion.
    pub prefix: Secret<String>,
    /// What stands after it, if it is an infill.
    pub suffix: Option<Secret<String>>,
}

/// A prompt with `\n` at the ends of its lines, and what the text that it was read from has there.
#[derive(Debug)]
pub struct Input {
    /// What is to be completed.
    pub prompt: Prompt,
    /// What the completion's lines are to end with.
    pub line_ends: LineEnds,
}

/// Why there is no prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// There is no such position.
    #[error(transparent)]
    Cursor(#[from] CursorError),
    /// It cannot be read.
    #[error("cannot read the prompt: {0}")]
    Read(ErrorKind),
    /// It is longer than this tool sends.
    #[error("the prompt is longer than {max} bytes")]
    TooLong {
        /// The bound, in bytes.
        max: u64,
    },
    /// It is not text.
    #[error("the prompt is not UTF-8: convert it first")]
    NotUtf8,
}

impl InputSource {
    /// Reads the prompt; of a file with a cursor at most `context_bytes` around it.
    ///
    /// # Errors
    /// [`InputError`]
    pub fn read(self, stdin: &mut dyn Read, context_bytes: usize) -> Result<Input, InputError> {
        let whole = match self {
            Self::Cursor(cursor) => return at_cursor(&cursor, context_bytes),
            Self::File(path) => text(&mut open(&path)?, MAX_PROMPT_BYTES)?,
            Self::Stdin => text(stdin, MAX_PROMPT_BYTES)?,
            Self::Text(text) => text,
        };
        let prompt = Prompt { prefix: to_lf(whole.expose()), suffix: None };
        Ok(Input { prompt, line_ends: LineEnds::of(whole.expose()) })
    }
}

fn at_cursor(cursor: &Cursor, context_bytes: usize) -> Result<Input, InputError> {
    let text = text(&mut open(&cursor.file)?, MAX_FILE_BYTES)?;
    // Editors do not count a byte order mark as a character, and it means nothing to the model.
    let text = text.expose().strip_prefix('\u{feff}').unwrap_or(text.expose());
    let (prefix, suffix) = fim::split(text, cursor.line, cursor.column)?;
    let (prefix, suffix) = (to_lf(prefix), to_lf(suffix));
    let (prefix, suffix) = fim::fit(prefix.expose(), suffix.expose(), context_bytes);
    let prompt =
        Prompt { prefix: Secret::new(prefix.to_owned()), suffix: Some(Secret::new(suffix.to_owned())) };
    Ok(Input { prompt, line_ends: LineEnds::of(text) })
}

fn open(path: &Path) -> Result<File, InputError> {
    File::open(path).map_err(|error| InputError::Read(error.kind()))
}

fn text(source: &mut dyn Read, max: u64) -> Result<Secret<String>, InputError> {
    let mut bytes = Secret::new(Vec::new());
    let read = source.take(max + 1).read_to_end(bytes.expose_mut());
    let read = read.map_err(|error| InputError::Read(error.kind()))?;
    if read as u64 > max {
        return Err(InputError::TooLong { max });
    }
    bytes.into_text().ok_or(InputError::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdin(mut bytes: &[u8]) -> Result<Input, InputError> {
        InputSource::Stdin.read(&mut bytes, 0)
    }

    #[test]
    fn stdin_is_taken_as_it_is_but_for_its_line_ends() {
        let Input { prompt, line_ends } = stdin("가\t \n\r".as_bytes()).unwrap();
        assert_eq!((prompt.prefix.expose().as_str(), line_ends), ("가\t \n\r", LineEnds::Lf));
        assert!(prompt.suffix.is_none());
        let Input { prompt, line_ends } = stdin("가\r\n".as_bytes()).unwrap();
        assert_eq!((prompt.prefix.expose().as_str(), line_ends), ("가\n", LineEnds::CrLf));
    }

    #[test]
    fn what_is_no_text_or_has_no_end_is_refused() {
        assert_eq!(stdin(b"\xff").unwrap_err(), InputError::NotUtf8);
        let endless = &mut std::io::repeat(b'x');
        let error = InputSource::Stdin.read(endless, 0).unwrap_err();
        assert_eq!(error, InputError::TooLong { max: MAX_PROMPT_BYTES });
    }

    #[test]
    fn a_missing_file_is_an_error_without_its_name() {
        let error =
            InputSource::File("/nonexistent/canary".into()).read(&mut std::io::empty(), 0).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the prompt: entity not found");
    }

    #[test]
    fn a_byte_order_mark_is_no_column() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}ab").unwrap();
        let one = std::num::NonZeroUsize::MIN;
        let cursor = Cursor { file: file.path().to_owned(), line: one, column: one.saturating_add(1) };
        let prompt = InputSource::Cursor(cursor).read(&mut std::io::empty(), 100).unwrap().prompt;
        assert_eq!((prompt.prefix.expose().as_str(), prompt.suffix.unwrap().expose().as_str()), ("a", "b"));
    }
}
