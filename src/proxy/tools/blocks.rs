//! A marked block in a user's configuration file: inserted, updated, and removed again exactly.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::editors::Snippet;

const BEGIN: &str = ">>> codeseal proxy >>>";
const END: &str = "<<< codeseal proxy <<<";
/// The file was not there before.
const NEW_FILE: &str = "new-file";
/// The file did not end with a line end before.
const NO_LINE_END: &str = "no-line-end";
/// The block splits a line.
const IN_LINE: &str = "in-line";

/// Why a file cannot be changed. It is left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// It cannot be read or written.
    #[error("cannot change the file: {0}")]
    Io(ErrorKind),
    /// It is no text.
    #[error("the file is not UTF-8")]
    NotText,
    /// It has a setting of the same name, which only people can join with ours.
    #[error("the file has `{0}` already: add the lines by hand")]
    Taken(&'static str),
    /// It holds no object that a setting could go into.
    #[error("the file holds no JSON object")]
    NoObject,
    /// There is nothing to undo.
    #[error("the file holds no block of codeseal")]
    NoBlock,
    /// The block's ends do not match.
    #[error("the block's first and last line do not match: take it out by hand")]
    Damaged,
}

/// Puts `snippet` into the file at `path`, or in the place of the block that is there.
///
/// # Errors
/// [`BlockError`].
pub(super) fn write(path: &Path, snippet: &Snippet) -> Result<(), BlockError> {
    let (old, is_new) = match fs::read(path) {
        Ok(bytes) => (String::from_utf8(bytes).map_err(|_| BlockError::NotText)?, false),
        Err(error) if error.kind() == ErrorKind::NotFound => (String::new(), true),
        Err(error) => return Err(BlockError::Io(error.kind())),
    };
    replace(path, &with_block(&old, is_new, snippet)?)
}

/// Takes the block out of the file at `path`, and the file away if it was made for the block.
///
/// # Errors
/// [`BlockError`].
pub(super) fn undo(path: &Path) -> Result<(), BlockError> {
    let bytes = fs::read(path).map_err(|error| BlockError::Io(error.kind()))?;
    let text = String::from_utf8(bytes).map_err(|_| BlockError::NotText)?;
    let (rest, marks) = without_block(&text)?;
    if marks.new_file && matches!(rest.trim(), "" | "{\n}") {
        return fs::remove_file(path).map_err(|error| BlockError::Io(error.kind()));
    }
    replace(path, &rest)
}

#[derive(Clone, Copy, Default)]
struct Marks {
    new_file: bool,
    no_line_end: bool,
    in_line: bool,
}

fn with_block(old: &str, is_new: bool, snippet: &Snippet) -> Result<String, BlockError> {
    let (text, mut marks) = match without_block(old) {
        Ok(found) => found,
        Err(BlockError::NoBlock) => (old.to_owned(), Marks { new_file: is_new, ..Marks::default() }),
        Err(error) => return Err(error),
    };
    if let Some(unique) = snippet.unique
        && text.lines().any(|line| line.trim_start().starts_with(unique))
    {
        return Err(BlockError::Taken(unique));
    }
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let at = match (snippet.in_object, is_new || text.trim().is_empty()) {
        (true, true) => None,
        (true, false) => Some(inside_object(&text)?),
        (false, _) => Some(text.len()),
    };
    let (before, after) = match at {
        Some(at) => text.split_at_checked(at).ok_or(BlockError::NoObject)?,
        None => ("{\n", "}\n"),
    };
    let splits = !before.is_empty() && !before.ends_with('\n');
    (marks.no_line_end, marks.in_line) = (splits && after.is_empty(), splits && !after.is_empty());
    let mut flags = String::new();
    let named = [(marks.new_file, NEW_FILE), (marks.no_line_end, NO_LINE_END), (marks.in_line, IN_LINE)];
    for (flag, name) in named {
        if flag {
            flags.push(' ');
            flags.push_str(name);
        }
    }
    let join = if splits { end } else { "" };
    let comment = snippet.comment;
    let block = format!("{comment} {BEGIN}{flags}\n{}{comment} {END}\n", snippet.text);
    Ok([before, join, &block.replace('\n', end), after].concat())
}

/// Behind the line, or else the brace, that opens the object. Comments in front of it are skipped.
fn inside_object(text: &str) -> Result<usize, BlockError> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let code = line.trim_start_matches('\u{feff}').trim_start();
        if let Some(rest) = code.strip_prefix('{') {
            let brace = start + line.len() - rest.len();
            return Ok(if rest.trim().is_empty() && line.ends_with('\n') {
                start + line.len()
            } else {
                brace
            });
        }
        if !code.trim().is_empty() && !code.starts_with("//") {
            break;
        }
        start += line.len();
    }
    Err(BlockError::NoObject)
}

/// The text without its block, and what the block's first line says of the text before it.
fn without_block(text: &str) -> Result<(String, Marks), BlockError> {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let find = |mark: &str| -> Vec<usize> {
        lines.iter().enumerate().filter(|(_, line)| line.contains(mark)).map(|(index, _)| index).collect()
    };
    let (first, last) = match (find(BEGIN).as_slice(), find(END).as_slice()) {
        ([], []) => return Err(BlockError::NoBlock),
        (&[first], &[last]) if first < last => (first, last),
        _ => return Err(BlockError::Damaged),
    };
    let mark = lines.get(first).copied().unwrap_or_default();
    let marks = Marks {
        new_file: mark.contains(NEW_FILE),
        no_line_end: mark.contains(NO_LINE_END),
        in_line: mark.contains(IN_LINE),
    };
    let mut before = lines.get(..first).unwrap_or_default().concat();
    let after = lines.get(last + 1..).unwrap_or_default().concat();
    // A line end that was there only for the block; if something was written behind the block, it is needed.
    if marks.in_line || marks.no_line_end && after.is_empty() {
        let kept = before.strip_suffix('\n').map(|text| text.strip_suffix('\r').unwrap_or(text).len());
        before.truncate(kept.unwrap_or(before.len()));
    }
    Ok((before + &after, marks))
}

/// Writes a file beside `path` and moves it there, so that it is either the old one or the new one. A link stays one.
fn replace(path: &Path, text: &str) -> Result<(), BlockError> {
    let io = |error: std::io::Error| BlockError::Io(error.kind());
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).map(PathBuf::from);
    let parent = parent.unwrap_or_else(|| PathBuf::from("."));
    fs::create_dir_all(&parent).map_err(io)?;
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(".codeseal-new");
    let beside = parent.join(name);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&beside)?;
        file.write_all(text.as_bytes())?;
        if let Ok(metadata) = fs::metadata(&target) {
            file.set_permissions(metadata.permissions())?;
        }
        file.sync_all()?;
        fs::rename(&beside, &target)
    })();
    if written.is_err() {
        // Best effort: nothing but ours is taken away.
        fs::remove_file(&beside).ok();
    }
    written.map_err(io)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::proxy::tools::editors::{Editor, snippet};

    fn ours(editor: Editor) -> Snippet {
        snippet(editor, "http://127.0.0.1:8012", None)
    }

    #[test]
    fn undo_takes_exactly_the_block_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        for &editor in Editor::value_variants() {
            for old in
                ["{\n  \"a\": 1\n}\n", "{ \"a\": 1 }", "{}", "// c\n{\r\n  \"a\": 1\r\n}\r\n", "{\n\n}\n"]
            {
                fs::write(&path, old).unwrap();
                write(&path, &ours(editor)).unwrap();
                let with = fs::read_to_string(&path).unwrap();
                assert!(with.contains("127.0.0.1:8012"), "{editor:?} {with}");
                write(&path, &ours(editor)).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), with, "{editor:?}: written twice");
                undo(&path).unwrap();
                assert_eq!(fs::read_to_string(&path).unwrap(), old, "{editor:?}");
            }
            fs::remove_file(&path).unwrap();
            write(&path, &ours(editor)).unwrap();
            undo(&path).unwrap();
            assert!(!path.exists(), "{editor:?}");
        }
    }

    #[test]
    fn what_people_changed_around_the_block_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vimrc");
        fs::write(&path, "set number").unwrap();
        write(&path, &ours(Editor::Vim)).unwrap();
        let changed = fs::read_to_string(&path).unwrap() + "set list\n";
        fs::write(&path, changed).unwrap();
        undo(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "set number\nset list\n");
        assert_eq!(undo(&path), Err(BlockError::NoBlock));
    }

    #[test]
    fn a_file_that_only_people_can_change_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.yaml");
        for (editor, text, error) in [
            (Editor::Continue, "models:\n  - name: other\n", BlockError::Taken("models:")),
            (Editor::Zed, "{\n  \"edit_predictions\": {}\n}\n", BlockError::Taken("\"edit_predictions\":")),
            (Editor::Vscode, "[]\n", BlockError::NoObject),
            (Editor::Vim, "\" >>> codeseal proxy >>>\nx\n", BlockError::Damaged),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(write(&path, &ours(editor)), Err(error), "{editor:?}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(write(&path, &ours(Editor::Vim)), Err(BlockError::NotText));
    }

    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "x\n").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, &ours(Editor::Vim)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("llama_config"));
    }
}
