//! `codeseal-server models lock`: pins every byte of a model in a manifest, trusting what is there now.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::fs;

use super::manifest::{Dtype, FileEntry, Manifest, ModelEntry};
use super::source::ModelSource;
use super::{FetchOptions, HubError, cache, directory};
use crate::files;

const EMPTY: &str = "version = 1\n";
const TABLE: &str = "[[model]]";

/// The largest manifest that is read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// The longest header of a safetensors file, as the format has it.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Fetches the model of `source` as it is now and writes its entry into the manifest at `path`.
///
/// The pins of an entry that is there already are not looked at: they are what is to be replaced. Comments and
/// other entries stay as they are, and the same model always gives the same text.
///
/// # Errors
/// [`HubError`]; the manifest is then unchanged.
pub async fn lock(source: &ModelSource, options: &FetchOptions, path: &Path) -> Result<(), HubError> {
    let text = match files::read_text(path, MAX_MANIFEST_BYTES) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => EMPTY.to_owned(),
        Err(error) => return Err(HubError::storage(error.into())),
    };
    let manifest: Manifest = text.parse()?;

    let (directory, source, files) = match source {
        ModelSource::Directory(path) => {
            let (directory, files) = directory::read_all(path, options).await?;
            (directory, source.clone(), files)
        }
        _ => {
            let fetched = cache::fetch(source, None, options).await?;
            (fetched.directory, fetched.source, fetched.files)
        }
    };
    let weights = files.iter().map(|(name, _)| name).find(|name| name.is_weights());
    let dtype = match weights {
        Some(name) if name.is_gguf() => Dtype::Gguf,
        Some(name) => dtype(directory.join(name.as_str())).await?,
        None => return Err(HubError::Weights),
    };
    let files = files.into_iter().map(|(name, pin)| FileEntry { name, pin: Some(pin) }).collect();
    let entry = ModelEntry { source, dtype, files };

    let index = manifest.models().iter().position(|known| known.source.is_same_model(&entry.source));
    let text = put(&text, index, &render(&entry));
    // Proves that what is written reads back as what was meant.
    let written: Manifest = text.parse()?;
    if written.find(&entry.source) != Some(&entry) {
        return Err(HubError::Unreadable);
    }
    write(path, &text).await
}

/// Replaces the file as a whole: a reader sees the old text or the new one.
async fn write(path: &Path, text: &str) -> Result<(), HubError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    fs::write(&new, text).await.map_err(HubError::storage)?;
    fs::rename(&new, path).await.map_err(HubError::storage)
}

/// The entry as TOML.
fn render(entry: &ModelEntry) -> String {
    let mut text = format!("{TABLE}\nsource = {}\n", quote(&entry.source.to_string()));
    let mut line = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        _ = writeln!(text, "{key} = {value}");
    };
    line("dtype", &quote(entry.dtype.as_str()));
    for file in &entry.files {
        let Some(pin) = file.pin else { continue };
        text += &format!("\n[[model.file]]\nname = {}\n", quote(file.name.as_str()));
        text += &format!("size = {}\nsha256 = {}\n", pin.size, quote(&pin.sha256.to_string()));
    }
    text
}

/// A basic string of TOML. Control characters are in no source.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Puts `entry` in the place of the model number `index`, or at the end.
///
/// A block reaches from its `[[model]]` to its last line that is neither empty nor a comment: what follows belongs
/// to the next one.
fn put(text: &str, index: Option<usize>, entry: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let starts: Vec<usize> =
        (0..lines.len()).filter(|&line| lines.get(line).is_some_and(|line| line.trim() == TABLE)).collect();
    let (start, end) = match index.and_then(|index| Some((*starts.get(index)?, starts.get(index + 1)))) {
        Some((start, next)) => (start, next.copied().unwrap_or(lines.len())),
        None => (lines.len(), lines.len()),
    };
    let (before, rest) = lines.split_at(start);
    let (block, after) = rest.split_at(end - start);
    let content = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let kept = block.iter().rposition(content).map_or(0, |last| last + 1);
    let trailing = block.get(kept..).unwrap_or_default();

    let mut result = String::with_capacity(text.len() + entry.len());
    let mut push = |lines: &[&str]| lines.iter().for_each(|line| result.extend([*line, "\n"]));
    push(before);
    if start == lines.len() && before.last().is_some_and(|line| !line.is_empty()) {
        push(&[""]);
    }
    push(&entry.lines().collect::<Vec<_>>());
    push(trailing);
    push(after);
    result
}

/// The type that the weights in `path` are stored in: that of the first tensor by name.
async fn dtype(path: PathBuf) -> Result<Dtype, HubError> {
    let reading = tokio::task::spawn_blocking(move || read_header(&path));
    let header = reading.await.map_err(|_| HubError::Weights)?.map_err(HubError::storage)?;
    dtype_of(&header)
}

fn read_header(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length).min(MAX_HEADER_BYTES)).read_to_end(&mut header)?;
    Ok(header)
}

fn dtype_of(header: &[u8]) -> Result<Dtype, HubError> {
    #[derive(Deserialize)]
    struct Tensor {
        dtype: Option<String>,
    }
    let tensors: BTreeMap<String, Tensor> = serde_json::from_slice(header).map_err(|_| HubError::Weights)?;
    // `__metadata__` stands among the tensors and has no type of this kind.
    match tensors.values().find_map(|tensor| tensor.dtype.as_deref()) {
        Some("BF16") => Ok(Dtype::Bf16),
        Some("F16") => Ok(Dtype::F16),
        Some("F32") => Ok(Dtype::F32),
        _ => Err(HubError::Weights),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# head\nversion = 1\n\n# a\n[[model]]\nsource = \"a\"\ndtype = \"f32\"\n# inside\n\
                        [[model.file]]\nname = \"config.json\"\nunlocked = true\n\n# b\n[[model]]\n\
                        source = \"b\"\ndtype = \"f32\"\n# end\n";
    const ENTRY: &str = "[[model]]\nsource = \"new\"\ndtype = \"bf16\"\n";

    #[test]
    fn a_block_is_replaced_and_the_comments_around_it_stay() {
        let first = "# head\nversion = 1\n\n# a\n[[model]]\nsource = \"new\"\ndtype = \"bf16\"\n\n# b\n\
                     [[model]]\nsource = \"b\"\ndtype = \"f32\"\n# end\n";
        assert_eq!(put(TEXT, Some(0), ENTRY), first);
        let second = put(TEXT, Some(1), ENTRY);
        assert!(second.starts_with(TEXT.split_once("[[model]]\nsource = \"b\"").unwrap().0));
        assert!(second.ends_with("# b\n[[model]]\nsource = \"new\"\ndtype = \"bf16\"\n# end\n"));
    }

    #[test]
    fn a_new_block_comes_last() {
        assert_eq!(put(TEXT, None, ENTRY), format!("{TEXT}\n{ENTRY}"));
        assert_eq!(put(EMPTY, None, ENTRY), format!("{EMPTY}\n{ENTRY}"));
    }

    #[test]
    fn any_path_is_quoted_so_that_it_reads_back() {
        let entry = ModelEntry {
            source: ModelSource::Directory(r#"C:\models\"tiny""#.into()),
            dtype: Dtype::F16,
            files: vec![],
        };
        let manifest: Manifest = put(EMPTY, None, &render(&entry)).parse().unwrap();
        assert_eq!(manifest.models(), [entry]);
    }

    #[test]
    fn the_type_of_weights_is_that_of_a_tensor() {
        let header =
            br#"{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#;
        assert_eq!(dtype_of(header).unwrap(), Dtype::Bf16);
        for wrong in [&b"{}"[..], b"", br#"{"a":{"dtype":"I8"}}"#, br#"{"a":1}"#] {
            assert!(matches!(dtype_of(wrong), Err(HubError::Weights)));
        }
    }
}
