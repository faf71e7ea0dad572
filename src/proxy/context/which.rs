//! Which file of the repository a hole is in: as the client says, or as its text shows.
//!
//! Pure.

use std::collections::HashMap;
use std::path::Path;

use super::index::Index;
use crate::proxy::dialect::Hole;

/// Lines before and after the hole that are looked for.
const MAX_LINES: usize = 80;
/// At least this many of them are in the file, and in no other.
const MIN_FOUND: usize = 3;
/// What comments begin with that name a file, as Continue writes them.
const COMMENTS: &[&str] = &["//", "#", "--", ";", "%", "/*", "<!--"];

/// The file, as the index names it.
pub(super) fn file<'a>(index: &'a Index, root: &Path, hole: &Hole, before: &str) -> Option<&'a str> {
    let said = hole.path.as_ref().and_then(|path| named(index, root, path.expose()));
    said.or_else(|| commented(index, root, before)).or_else(|| by_lines(index, before, hole.suffix.expose()))
}

/// The file that a client's path names: relative to the root, absolute, or with some directories in front.
fn named<'a>(index: &'a Index, root: &Path, path: &str) -> Option<&'a str> {
    let path = path.trim().strip_prefix("file://").unwrap_or(path.trim());
    let below = Path::new(path).strip_prefix(root).ok().and_then(Path::to_str).unwrap_or(path);
    let mut rest = below.strip_prefix("./").unwrap_or(below);
    loop {
        if let Some((path, _)) = index.get(rest) {
            return Some(path);
        }
        rest = rest.split_once('/')?.1;
    }
}

/// The last comment that is a path and nothing else.
fn commented<'a>(index: &'a Index, root: &Path, before: &str) -> Option<&'a str> {
    before.lines().rev().find_map(|line| {
        let comment = COMMENTS.iter().find_map(|mark| line.trim().strip_prefix(mark))?;
        let path = comment.trim_end_matches("*/").trim_end_matches("-->").trim();
        let path = path.strip_prefix("Path:").unwrap_or(path).trim();
        (path.contains('.') && !path.contains(char::is_whitespace))
            .then(|| named(index, root, path))
            .flatten()
    })
}

/// The file that most of the lines around the hole are in.
fn by_lines<'a>(index: &'a Index, before: &str, suffix: &str) -> Option<&'a str> {
    // The cursor's own line is not in any file yet.
    let above = before.lines().rev().skip(1).take(MAX_LINES);
    let below = suffix.lines().skip(1).take(MAX_LINES);
    let mut found: HashMap<&str, usize> = HashMap::new();
    for owner in above.chain(below).filter_map(|line| index.owner(line)) {
        *found.entry(owner).or_default() += 1;
    }
    let (best, count) = found.iter().max_by_key(|(path, count)| (**count, **path))?;
    let others = found.values().sum::<usize>() - count;
    (*count >= MIN_FOUND && *count > others).then_some(*best)
}
