//! Which files make a model: the one list that the loader, the hub and the digest share.
//!
//! A closed set of names, so that no name can lead out of its directory.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The shape of the model, and the ids of its control tokens.
pub(crate) const CONFIG: &str = "config.json";
/// The tokenizer.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// Read if it is there: the ids that end an answer.
pub(crate) const GENERATION: &str = "generation_config.json";
/// Weights in one file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Says which shard holds which tensor.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// The longest file name that file systems take, in bytes, less the suffix of an unfinished download.
const MAX_NAME_BYTES: usize = 240;
/// How many names an error lists.
const MAX_LISTED: usize = 6;

/// The name of a file that can belong to a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

/// The name is not one that a file of a model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the name of a model file")]
pub struct NotAModelFile;

/// Which part of a set a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part<'a> {
    /// The name before the part's number.
    stem: &'a str,
    /// From 1 on.
    number: u32,
    count: u32,
}

/// The files of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    weights: WeightFiles,
    /// All of them, weights included.
    files: BTreeSet<FileName>,
}

/// The files that hold weights, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WeightFiles {
    /// `model.safetensors`, or all shards of a set.
    Safetensors(Vec<FileName>),
    /// One file, or the parts that `llama-gguf-split` makes of one.
    Gguf(Vec<FileName>),
}

/// Why files are not one model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A file that the others ask for is not there.
    #[error("the model lacks {file}: download it from where the other files came from")]
    Missing {
        /// The file.
        file: FileName,
    },
    /// There are no weights.
    #[error(
        "the model has no weights that can be read: model.safetensors, shards such as \
         model-00001-of-00002.safetensors with model.safetensors.index.json, or a .gguf file"
    )]
    NoWeights,
    /// There is an index and no shard.
    #[error(
        "the model has model.safetensors.index.json, but no shard: download model-00001-of-0000N.safetensors \
         and the others that it names"
    )]
    NoShards,
    /// There are several GGUF models.
    #[error("there are several GGUF models ({0}): name one of them, as in --model DIRECTORY/FILE.gguf")]
    SeveralGguf(String),
    /// Weights are there in more than one form: the one that was verified might not be the one that is read.
    #[error(
        "the model has weights in more than one form ({0}): keep one of them, or name a GGUF file with \
         --model DIRECTORY/FILE.gguf"
    )]
    TwoModels(String),
}

impl FileName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the file holds weights.
    pub(crate) fn is_weights(&self) -> bool {
        self.0 == SINGLE || self.is_gguf() || self.shard().is_some()
    }

    pub(crate) fn is_gguf(&self) -> bool {
        self.0.ends_with(".gguf")
    }

    /// The name of a GGUF file without its ending and the number of its part; any other name as it is.
    pub(crate) fn title(&self) -> &str {
        let stem = self.0.strip_suffix(".gguf").unwrap_or(&self.0);
        self.gguf_part().map_or(stem, |part| part.stem)
    }

    /// What `model-00003-of-00007.safetensors` says.
    fn shard(&self) -> Option<Part<'_>> {
        part(self.0.strip_suffix(".safetensors")?).filter(|part| part.stem == "model")
    }

    /// What `NAME-00003-of-00007.gguf` says.
    fn gguf_part(&self) -> Option<Part<'_>> {
        part(self.0.strip_suffix(".gguf")?)
    }
}

impl FromStr for FileName {
    type Err = NotAModelFile;

    fn from_str(text: &str) -> Result<Self, NotAModelFile> {
        let name = Self(text.to_owned());
        let known = [CONFIG, TOKENIZER, GENERATION, SINGLE, INDEX].contains(&text);
        let gguf = || name.is_gguf() && is_safe(text);
        if known || name.shard().is_some() || gguf() { Ok(name) } else { Err(NotAModelFile) }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Layout {
    /// The model that a directory with these files holds.
    ///
    /// # Errors
    /// [`LayoutError`] if they are no model, not all of one, or more than one.
    pub fn of(names: &BTreeSet<FileName>) -> Result<Self, LayoutError> {
        let gguf: Vec<_> = names.iter().filter(|name| name.is_gguf()).collect();
        let Some(first) = gguf.first() else { return Self::of_safetensors(names) };
        if names.iter().any(|name| name.is_weights() && !name.is_gguf()) {
            return Err(LayoutError::TwoModels(list(names.iter().filter(|name| name.is_weights()))));
        }
        if let Some(other) = gguf.iter().find(|name| !same_set(first, name)) {
            return Err(LayoutError::SeveralGguf(list(
                [first, other]
                    .into_iter()
                    .chain(gguf.iter().filter(|name| *name != first && *name != other))
                    .copied(),
            )));
        }
        Self::of_gguf(names, first)
    }

    /// The model that the GGUF file `chosen` holds, or is a part of. Weights in other files are not looked at.
    ///
    /// # Errors
    /// [`LayoutError::Missing`] if another part is not there.
    pub fn of_gguf(names: &BTreeSet<FileName>, chosen: &FileName) -> Result<Self, LayoutError> {
        let weights = match chosen.gguf_part() {
            None => vec![chosen.clone()],
            Some(Part { stem, count, .. }) => (1..=count)
                .map(|number| require(names, format!("{stem}-{number:05}-of-{count:05}.gguf")))
                .collect::<Result<_, _>>()?,
        };
        let rest = [CONFIG, GENERATION, TOKENIZER];
        Ok(Self::new(names, &rest, WeightFiles::Gguf(weights)))
    }

    fn of_safetensors(names: &BTreeSet<FileName>) -> Result<Self, LayoutError> {
        let has = |name: &str| names.iter().any(|known| known.0 == name);
        let shards: Vec<_> = names.iter().filter_map(FileName::shard).collect();
        let weights = match shards.first() {
            Some(&Part { count, .. }) => {
                if has(SINGLE) || shards.iter().any(|shard| shard.count != count) {
                    let all = names.iter().filter(|name| name.is_weights());
                    return Err(LayoutError::TwoModels(list(all)));
                }
                require(names, INDEX.to_owned())?;
                (1..=count)
                    .map(|number| require(names, format!("model-{number:05}-of-{count:05}.safetensors")))
                    .collect::<Result<_, _>>()?
            }
            None if has(SINGLE) => vec![FileName(SINGLE.to_owned())],
            None if has(INDEX) => return Err(LayoutError::NoShards),
            None => return Err(LayoutError::NoWeights),
        };
        require(names, CONFIG.to_owned())?;
        let rest = [CONFIG, GENERATION, TOKENIZER, INDEX];
        Ok(Self::new(names, &rest, WeightFiles::Safetensors(weights)))
    }

    fn new(names: &BTreeSet<FileName>, rest: &[&str], weights: WeightFiles) -> Self {
        let rest = names.iter().filter(|name| rest.contains(&name.as_str()));
        let files = rest.chain(weights.names()).cloned().collect();
        Self { weights, files }
    }

    /// All files that are read, in the order of their names.
    pub fn files(&self) -> &BTreeSet<FileName> {
        &self.files
    }

    /// Checks that the tokenizer is one of them: a model can be computed without, but not served.
    ///
    /// # Errors
    /// [`LayoutError::Missing`]
    pub(crate) fn require_tokenizer(&self) -> Result<(), LayoutError> {
        require(&self.files, TOKENIZER.to_owned()).map(drop)
    }

    /// Whether `name` is one of them.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.files.iter().any(|known| known.0 == name)
    }

    /// The files that hold weights, in their order.
    pub(crate) fn weights(&self) -> &WeightFiles {
        &self.weights
    }

    /// The file's role: the same for the same model, independent of the name of a GGUF file.
    pub(crate) fn role(&self, name: &FileName) -> String {
        match (name.is_gguf(), name.gguf_part()) {
            (false, _) => name.0.clone(),
            (true, None) => String::from("model.gguf"),
            (true, Some(Part { number, count, .. })) => format!("model-{number:05}-of-{count:05}.gguf"),
        }
    }
}

impl WeightFiles {
    /// Their names.
    pub(crate) fn names(&self) -> &[FileName] {
        match self {
            Self::Safetensors(names) | Self::Gguf(names) => names,
        }
    }
}

/// Whether both are parts of one model, or one file.
fn same_set(a: &FileName, b: &FileName) -> bool {
    match (a.gguf_part(), b.gguf_part()) {
        (Some(a), Some(b)) => (a.stem, a.count) == (b.stem, b.count),
        _ => a == b,
    }
}

/// `(NAME, 3, 7)` of `NAME-00003-of-00007`.
fn part(text: &str) -> Option<Part<'_>> {
    let read = |digits: &str| -> Option<u32> {
        let five = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if five { digits.parse().ok() } else { None }
    };
    let (rest, count) = text.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let (number, count) = (read(number)?, read(count)?);
    let sound = !stem.is_empty() && (1..=count).contains(&number);
    sound.then_some(Part { stem, number, count })
}

/// One component of a path that prints as it is: no separator, nothing that controls a terminal or the direction of
/// text, and no hidden file, as the companions that macOS writes.
fn is_safe(text: &str) -> bool {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '/' | '\\' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            || c == '\u{feff}'
    };
    text.len() <= MAX_NAME_BYTES && !text.starts_with('.') && !text.contains(steers)
}

fn require(names: &BTreeSet<FileName>, name: String) -> Result<FileName, LayoutError> {
    let file = FileName(name);
    if names.contains(&file) { Ok(file) } else { Err(LayoutError::Missing { file }) }
}

/// The first names of many.
fn list<'a>(names: impl IntoIterator<Item = &'a FileName>) -> String {
    let names: Vec<_> = names.into_iter().map(FileName::as_str).collect();
    let more = names.len().saturating_sub(MAX_LISTED);
    let first = names.get(..MAX_LISTED).unwrap_or(&names).join(", ");
    if more > 0 { format!("{first} and {more} more") } else { first }
}

#[cfg(test)]
mod tests;
