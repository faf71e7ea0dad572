//! Finds the model that a path names, a directory or one GGUF file, or says what is there in its place.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::super::layout::{CONFIG, FileName, INDEX, Layout, LayoutError};
use super::FilesError;
use super::content::{FileProblem, HEAD_BYTES, is_safetensors, pickle};

/// How deep a model is looked for, to name it: a hub cache has it in `models--…/snapshots/REVISION`.
const MAX_DEPTH: u32 = 4;
/// How many entries are looked at on the way.
const MAX_ENTRIES: usize = 20_000;
/// How many files an error lists.
const MAX_LISTED: usize = 4;

/// What is wrong with the path that was named, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceProblem {
    /// There is nothing.
    #[error("there is no such path ({0} is not there): check its spelling")]
    Missing(String),
    /// It is a link to nothing.
    #[error("this is a link whose target is not there: download the model again, or name where it is now")]
    DanglingLink,
    /// Its permissions do not allow it.
    #[error("the user that runs this program has no permission to read this: change its mode or owner")]
    Permission,
    /// The operating system does not give it.
    #[error("this cannot be read ({0})")]
    Read(io::ErrorKind),
    /// It is a pipe, a socket or a device.
    #[error("this is neither a directory nor a file: name the model's directory")]
    Special,
    /// It is one file of a model that is several.
    #[error(
        "this is one file of a model: name the directory that it is in, with config.json and tokenizer.json"
    )]
    OneFile,
    /// It is a GGUF file of another name.
    #[error("this is a GGUF file: give it, or a link to it, a name that ends in .gguf")]
    UnnamedGguf,
    /// It is a file of another kind.
    #[error(
        "this kind of file is not read{0}: download the model's directory of .safetensors files with config.json and \
         tokenizer.json, or a .gguf file"
    )]
    OtherFile(String),
    /// The model is further down.
    #[error("there is no model here, but there is one in {0}: name that")]
    Inside(String),
    /// Several models are further down.
    #[error("there is no model here, but there are several in it: name one of {0}")]
    SeveralInside(String),
    /// There is nothing in it.
    #[error("this directory is empty: download the model into it")]
    Empty,
    /// Weights are there in formats that are not read.
    #[error(
        "the weights here ({0}) are in a format that is not read: download the repository's .safetensors files, or \
         convert these with `save_pretrained(..., safe_serialization=True)` of transformers"
    )]
    OtherWeights(String),
    /// Only a LoRA adapter is there.
    #[error(
        "this is a LoRA adapter ({0}) without its model: merge it with `merge_and_unload()` of peft, and save the result"
    )]
    Adapter(String),
    /// Weights have names that are not known.
    #[error(
        "weights are read from model.safetensors, or model-00001-of-00002.safetensors and so on, not from {0}: rename \
         them, or save the model again with transformers"
    )]
    OtherNames(String),
    /// A download was broken off.
    #[error("the download of {0} is not complete: let it finish, or start it again")]
    Unfinished(String),
}

/// A model that was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Where its files are.
    pub(super) dir: PathBuf,
    pub(super) layout: Layout,
    /// The names of all entries beside them.
    pub(super) others: Vec<String>,
}

/// Finds the model that `path` names.
pub(super) fn find(path: &Path) -> Result<Found, FilesError> {
    let wrong = |problem| FilesError::Place { path: shown(path), problem };
    let metadata = fs::metadata(path).map_err(|error| wrong(unreachable(path, &error)))?;
    if metadata.is_dir() {
        let others = list(path).map_err(|error| wrong(problem_of(&error)))?;
        return match Layout::of(&names(&others)) {
            Ok(layout) => Ok(Found { dir: path.to_owned(), layout, others }),
            Err(error) => Err(instead(path, &others, &error).map_or_else(|| error.into(), wrong)),
        };
    }
    if !metadata.is_file() {
        return Err(wrong(PlaceProblem::Special));
    }
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    let Some(chosen) = name.filter(FileName::is_gguf) else {
        return Err(wrong(kind_of(path)));
    };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let others = list(dir).map_err(|error| wrong(problem_of(&error)))?;
    let layout = Layout::of_gguf(&names(&others), &chosen)?;
    Ok(Found { dir: dir.to_owned(), layout, others })
}

/// The path as it can be printed.
fn shown(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// Text without what controls a terminal or the direction of text.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' | '\\' => printable.push(c),
            c => printable.extend(c.escape_debug()),
        }
    }
    printable
}

fn problem_of(error: &io::Error) -> PlaceProblem {
    match error.kind() {
        io::ErrorKind::PermissionDenied => PlaceProblem::Permission,
        kind => PlaceProblem::Read(kind),
    }
}

/// Why the path has no metadata.
fn unreachable(path: &Path, error: &io::Error) -> PlaceProblem {
    if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
        return problem_of(error);
    }
    if fs::symlink_metadata(path).is_ok() {
        return PlaceProblem::DanglingLink;
    }
    let missing = path.ancestors().take_while(|ancestor| fs::symlink_metadata(ancestor).is_err());
    let missing = missing.filter(|ancestor| !ancestor.as_os_str().is_empty()).last();
    PlaceProblem::Missing(shown(missing.unwrap_or(path)))
}

/// What a file is that was named in place of a model.
fn kind_of(path: &Path) -> PlaceProblem {
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEAD_BYTES as u64).read_to_end(&mut head));
    if let Err(error) = read {
        return problem_of(&error);
    }
    if head.starts_with(b"GGUF") {
        return PlaceProblem::UnnamedGguf;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if is_safetensors(&head) || name.ends_with(".safetensors") || name.ends_with(".json") {
        return PlaceProblem::OneFile;
    }
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
    let found = match extension.as_deref() {
        Some("bin" | "pt" | "pth" | "ckpt" | "pkl") => Some("pickled weights of PyTorch"),
        Some("onnx") => Some("an ONNX graph"),
        Some("h5") => Some("weights of Keras"),
        Some("msgpack") => Some("weights of Flax"),
        Some("tflite" | "task" | "litertlm") => Some("a model for LiteRT"),
        Some("npz") => Some("weights of NumPy"),
        Some("zip" | "gz" | "tgz" | "tar" | "xz" | "zst") => Some("an archive that was not unpacked"),
        _ => pickle(&head),
    };
    PlaceProblem::OtherFile(found.map(|found| format!(" ({found})")).unwrap_or_default())
}

/// The names of all entries, in their order.
fn list(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

fn names(others: &[String]) -> BTreeSet<FileName> {
    others.iter().filter_map(|name| name.parse().ok()).collect()
}

/// What `dir` holds in place of a model; nothing if `error` says it better.
fn instead(dir: &Path, others: &[String], error: &LayoutError) -> Option<PlaceProblem> {
    let with = |endings: &[&str]| {
        let found = others.iter().filter(|name| endings.iter().any(|ending| name.ends_with(ending)));
        listed(found.map(String::as_str))
    };
    if let LayoutError::Missing { file } = error
        && file.as_str() != INDEX
        && file.as_str() != CONFIG
    {
        return None;
    }
    if !matches!(error, LayoutError::NoWeights | LayoutError::NoShards | LayoutError::Missing { .. }) {
        return None;
    }
    if others.is_empty() {
        return Some(PlaceProblem::Empty);
    }
    if let Some(unfinished) =
        with(&[".part", ".incomplete", ".aria2", ".crdownload", ".download", ".partial"])
    {
        return Some(PlaceProblem::Unfinished(unfinished));
    }
    if !matches!(error, LayoutError::NoWeights) {
        return None;
    }
    if let Some(adapter) = with(&["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]) {
        return Some(PlaceProblem::Adapter(adapter));
    }
    if let Some(named) =
        with(&[".safetensors", ".safetensors.index.json"]).filter(|_| with(&[".safetensors"]).is_some())
    {
        return Some(PlaceProblem::OtherNames(named));
    }
    let other =
        [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".npz", ".tflite", ".bin.index.json"];
    if let Some(weights) = with(&other) {
        return Some(PlaceProblem::OtherWeights(weights));
    }
    let mut inside = Vec::new();
    let mut entries = MAX_ENTRIES;
    search(dir, MAX_DEPTH, &mut entries, &mut inside);
    match inside.as_slice() {
        [] => None,
        [one] => Some(PlaceProblem::Inside(shown(one))),
        several => {
            let several: Vec<_> = several.iter().map(|path| shown(path)).collect();
            listed(several.iter().map(String::as_str)).map(PlaceProblem::SeveralInside)
        }
    }
}

/// The directories below `dir` that hold models, among as many `entries` as may still be looked at.
fn search(dir: &Path, depth: u32, entries: &mut usize, found: &mut Vec<PathBuf>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    for name in list(dir).unwrap_or_default() {
        let Some(left) = entries.checked_sub(1) else { return };
        *entries = left;
        let inner = dir.join(name);
        if !inner.is_dir() || inner.is_symlink() {
            continue;
        }
        let is_model = list(&inner).is_ok_and(|others| {
            matches!(
                Layout::of(&names(&others)),
                Ok(_) | Err(LayoutError::SeveralGguf(_) | LayoutError::TwoModels(_))
            )
        });
        if is_model {
            found.push(inner);
        } else {
            search(&inner, depth, entries, found);
        }
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<_> = names.collect();
    let more = names.len().saturating_sub(MAX_LISTED);
    let first = printable(&names.get(..MAX_LISTED).unwrap_or(&names).join(", "));
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(first),
        (false, more) => Some(format!("{first} and {more} more")),
    }
}

/// Opens the regular file at `path`.
pub(super) fn open(path: &Path) -> Result<File, FileProblem> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_ok() => {
            return Err(FileProblem::DanglingLink);
        }
        Err(error) => return Err(FileProblem::of(&error)),
    };
    // Opening a pipe would wait for its writer.
    if metadata.is_dir() {
        return Err(FileProblem::Directory);
    }
    if !metadata.is_file() {
        return Err(FileProblem::Special);
    }
    File::open(path).map_err(|error| FileProblem::of(&error))
}
