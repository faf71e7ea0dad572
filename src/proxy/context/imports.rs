//! Which files of the repository a text imports, for the common languages.
//!
//! A rough reading: what it takes for an import only matters if a file is called so.

use super::index::Index;

/// Lines that are looked at: imports stand at the top.
const MAX_LINES: usize = 300;
/// Files with these extensions import each other.
const KINDS: &[&[&str]] = &[
    &["c", "cc", "cpp", "cxx", "h", "hh", "hpp", "cu", "cuh"],
    &["js", "jsx", "ts", "tsx", "mjs", "cjs", "vue", "svelte"],
    &["java", "kt", "kts", "scala", "groovy"],
    &["py", "pyi"],
];
/// What stands in front of the name of what is imported.
const WORDS: &[&str] =
    &["import", "from", "use", "mod", "require", "require_relative", "include", "#include", "pub"];
/// Parts of names that lead to no file.
const NO_FILES: &[&str] = &["crate", "self", "super", "std", "core", "."];

/// The files that `text`, which is in the file `from`, imports.
pub(super) fn imported<'a>(index: &'a Index, from: &str, text: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for name in text.lines().take(MAX_LINES).flat_map(names) {
        let file = resolve(index, from, &name);
        if let Some(file) = file.filter(|file| *file != from && !found.contains(file)) {
            found.push(file);
        }
    }
    found
}

/// The names that a line may import, each as its parts.
fn names(line: &str) -> Vec<Vec<String>> {
    let line = line.trim();
    let word =
        line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '#'))).next().unwrap_or_default();
    // `const x = require("./y")` and the inner lines of Go's import block begin otherwise.
    let is_import = WORDS.contains(&word)
        || line.contains("require(")
        || line.starts_with('"')
        || line.contains("} from ");
    if !is_import {
        return Vec::new();
    }
    if let Some(path) = quoted(line) {
        return vec![path.split('/').map(without_extension).collect()];
    }
    // Python's `from a.b import c`: the module, and each name in it.
    if let Some((module, rest)) = line.strip_prefix("from ").and_then(|line| line.split_once(" import ")) {
        let module = parts(module);
        let inner = rest.split([',', '(', ')']).filter_map(|name| name.split_whitespace().next());
        let mut all: Vec<Vec<String>> =
            inner.map(|name| module.iter().cloned().chain([name.to_owned()]).collect()).collect();
        all.push(module);
        return all;
    }
    let rest = line.split_once(char::is_whitespace).map_or("", |(_, rest)| rest);
    let name = rest.trim_start_matches("mod ").trim_start_matches("use ");
    let name = name.split([';', ' ', ',', '{']).next().unwrap_or_default();
    vec![parts(name)]
}

fn quoted(line: &str) -> Option<&str> {
    let quote = line.find(['"', '\''])?;
    let mark = line.get(quote..)?.chars().next()?;
    line.get(quote + 1..)?.split(mark).next().filter(|path| !path.is_empty())
}

fn without_extension(part: &str) -> String {
    if part.starts_with('.') { part.to_owned() } else { part.split('.').next().unwrap_or(part).to_owned() }
}

fn parts(name: &str) -> Vec<String> {
    name.split(['.', ':', '/']).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The file that best fits the parts of a name: the more of them are in its path, the better, and then the nearest.
fn resolve<'a>(index: &'a Index, from: &str, parts: &[String]) -> Option<&'a str> {
    let parts: Vec<&str> =
        parts.iter().map(String::as_str).filter(|part| !NO_FILES.contains(part) && *part != "..").collect();
    // The last part may be a name inside the file.
    (1..=parts.len()).rev().take(2).find_map(|length| {
        let (last, directories) = parts.get(..length)?.split_last()?;
        let fits = |path: &&String| same_kind(from, path) && in_directories(path, directories);
        index.called(last).iter().filter(fits).max_by_key(|path| shared(from, path)).map(String::as_str)
    })
}

/// Whether `path` lies in `directories`, or in a part of them: the first ones may be the name of the package.
fn in_directories(path: &str, directories: &[&str]) -> bool {
    let Some(nearest) = directories.last() else { return true };
    path.split('/').rev().skip(1).any(|part| part == *nearest)
}

fn same_kind(one: &str, other: &str) -> bool {
    let extension = |path: &str| path.rsplit_once('.').map(|(_, extension)| extension.to_owned());
    match (extension(one), extension(other)) {
        (Some(one), Some(other)) => {
            let together = |kind: &&[&str]| kind.contains(&one.as_str()) && kind.contains(&other.as_str());
            one == other || KINDS.iter().any(together)
        }
        _ => false,
    }
}

/// How many directories two paths share.
fn shared(one: &str, other: &str) -> usize {
    one.split('/').zip(other.split('/')).take_while(|(one, other)| one == other).count()
}
