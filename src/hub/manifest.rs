//! The manifest: which bytes each model is made of.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::FileName;
use super::source::ModelSource;
use crate::model::Layout;

/// The only version of the format.
const VERSION: u64 = 1;

/// A SHA-256 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Hash([u8; 32]);

/// The models that are known, each with its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    models: Vec<ModelEntry>,
}

/// One model of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// Where it comes from.
    pub source: ModelSource,
    /// The type that its weights are stored in.
    pub dtype: Dtype,
    /// Its files in the order of their names; none if nothing is known yet.
    pub files: Vec<FileEntry>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Its name.
    pub name: FileName,
    /// What it must be; `None` if the file is unlocked.
    pub pin: Option<Pin>,
}

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Its length, in bytes.
    pub size: u64,
    /// Its hash.
    pub sha256: Sha256Hash,
}

/// The type that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// bfloat16
    Bf16,
    /// IEEE half precision
    F16,
    /// IEEE single precision
    F32,
    /// The types of a GGUF file, which differ from tensor to tensor
    Gguf,
}

/// Why a manifest is refused. Whatever is not understood is an error: a pin that is overlooked pins nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A model stands in it twice.
    #[error("the manifest names model {model} twice: keep one of them")]
    Duplicate {
        /// Counted from 1.
        model: usize,
    },
    /// A file stands in a model twice, is no model file, or is neither pinned nor marked as unlocked.
    #[error(
        "model {model}, file {file} of the manifest needs the name of a model file, once, and either size and sha256 or unlocked = true"
    )]
    File {
        /// Counted from 1.
        model: usize,
        /// Counted from 1.
        file: usize,
    },
    /// All files are pinned, but they are not those of one model.
    #[error(
        "model {model} of the manifest is locked but not one whole model: run `codeseal-server models lock` again"
    )]
    Incomplete {
        /// Counted from 1.
        model: usize,
    },
    /// Files are pinned, but not the revision that has them.
    #[error(
        "model {model} of the manifest is locked, so its source needs a revision of 40 hexadecimal digits"
    )]
    Revision {
        /// Counted from 1.
        model: usize,
    },
    /// The source names nothing.
    #[error(
        "model {model} of the manifest: a source is a directory, a GGUF file, hf://owner/name[@revision] or gs://bucket/prefix"
    )]
    Source {
        /// Counted from 1.
        model: usize,
    },
    /// Not TOML, or not of this form.
    #[error("the manifest cannot be read: {message}")]
    Syntax {
        /// What the parser says.
        message: String,
    },
    /// Written for another release.
    #[error("the manifest is of a version other than {VERSION}: use the one of this release")]
    Version,
}

impl Manifest {
    /// The manifest of this release, `models/manifest.toml`.
    ///
    /// # Errors
    /// None in a release whose tests pass.
    pub fn built_in() -> Result<Self, ManifestError> {
        include_str!("../../models/manifest.toml").parse()
    }

    /// All models.
    pub fn models(&self) -> &[ModelEntry] {
        &self.models
    }

    /// The entry of the model that `source` names.
    ///
    /// A source with a revision is not the model of an entry with another one.
    pub(super) fn find(&self, source: &ModelSource) -> Option<&ModelEntry> {
        self.models.iter().find(|entry| {
            let revision = |source: &ModelSource| match source {
                ModelSource::HuggingFace { revision, .. } => revision.clone(),
                _ => None,
            };
            let (asked, known) = (revision(source), revision(&entry.source));
            entry.source.is_same_model(source) && (asked.is_none() || known.is_none() || asked == known)
        })
    }
}

impl ModelEntry {
    /// Whether every byte of the model is pinned.
    pub fn is_locked(&self) -> bool {
        !self.files.is_empty() && self.files.iter().all(|file| file.pin.is_some())
    }

    /// The pin of the file `name`.
    pub(super) fn pin(&self, name: &FileName) -> Option<Pin> {
        self.files.iter().find(|file| file.name == *name).and_then(|file| file.pin)
    }
}

impl Dtype {
    /// The name in the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::Gguf => "gguf",
        }
    }
}

impl Sha256Hash {
    /// A hash of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Sha256Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let mut bytes = [0; 32];
        if text.len() != 64 {
            return Err(NotAHash);
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let value = |digit: u8| match digit {
                b'0'..=b'9' => Ok(digit - b'0'),
                b'a'..=b'f' => Ok(digit - b'a' + 10),
                _ => Err(NotAHash),
            };
            *byte = digits.iter().try_fold(0, |byte, &digit| Ok::<_, NotAHash>(byte << 4 | value(digit)?))?;
        }
        Ok(Self(bytes))
    }
}

/// The text is no SHA-256 hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 hash is 64 hexadecimal digits in lower case")]
pub struct NotAHash;

impl fmt::Display for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Hash({self})")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    version: u64,
    #[serde(default)]
    model: Vec<RawModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    source: String,
    dtype: Dtype,
    #[serde(default)]
    file: Vec<RawFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    name: String,
    size: Option<u64>,
    sha256: Option<String>,
    #[serde(default)]
    unlocked: bool,
}

impl FromStr for Manifest {
    type Err = ManifestError;

    fn from_str(text: &str) -> Result<Self, ManifestError> {
        let raw: RawManifest = toml::from_str(text)
            .map_err(|error| ManifestError::Syntax { message: error.message().to_owned() })?;
        if raw.version != VERSION {
            return Err(ManifestError::Version);
        }
        let mut models: Vec<ModelEntry> = Vec::with_capacity(raw.model.len());
        for (index, raw) in raw.model.into_iter().enumerate() {
            let entry = raw.check(index + 1)?;
            if models.iter().any(|known| known.source.is_same_model(&entry.source)) {
                return Err(ManifestError::Duplicate { model: index + 1 });
            }
            models.push(entry);
        }
        Ok(Self { models })
    }
}

impl RawModel {
    fn check(self, model: usize) -> Result<ModelEntry, ManifestError> {
        let source: ModelSource = self.source.parse().map_err(|_| ManifestError::Source { model })?;
        let mut names = BTreeSet::new();
        let mut files = Vec::with_capacity(self.file.len());
        for (index, raw) in self.file.into_iter().enumerate() {
            let entry = raw.check().filter(|entry| names.insert(entry.name.clone()));
            files.push(entry.ok_or(ManifestError::File { model, file: index + 1 })?);
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let entry = ModelEntry { source, dtype: self.dtype, files };
        if entry.is_locked() {
            let layout = Layout::of(&names).ok().filter(|layout| layout.require_tokenizer().is_ok());
            if layout.is_none_or(|layout| *layout.files() != names) {
                return Err(ManifestError::Incomplete { model });
            }
            if matches!(entry.source, ModelSource::HuggingFace { .. }) && entry.source.commit().is_none() {
                return Err(ManifestError::Revision { model });
            }
        }
        Ok(entry)
    }
}

impl RawFile {
    fn check(self) -> Option<FileEntry> {
        let pin = match (self.size, self.sha256, self.unlocked) {
            (Some(size), Some(sha256), false) => Some(Pin { size, sha256: sha256.parse().ok()? }),
            (None, None, true) => None,
            _ => return None,
        };
        Some(FileEntry { name: self.name.parse().ok()?, pin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn locked(source: &str) -> String {
        let mut text = format!("version = 1\n[[model]]\nsource = \"{source}\"\ndtype = \"bf16\"\n");
        for name in ["model.safetensors", "config.json", "tokenizer.json"] {
            text += &format!("[[model.file]]\nname = \"{name}\"\nsize = 4\nsha256 = \"{HASH}\"\n");
        }
        text
    }

    fn parse(text: &str) -> Result<Manifest, ManifestError> {
        text.parse()
    }

    #[test]
    fn the_built_in_manifest_is_valid() {
        let manifest = Manifest::built_in().unwrap();
        for source in
            ["hf://google/codegemma-2b", "gs://vertex-model-garden-public-us/codegemma/codegemma-2b"]
        {
            assert!(manifest.find(&source.parse().unwrap()).is_some(), "{source}");
        }
    }

    #[test]
    fn a_locked_entry_is_read_and_its_files_are_in_order() {
        let manifest = parse(&locked("models/a")).unwrap();
        let [entry] = manifest.models() else { unreachable!() };
        let names: Vec<_> = entry.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["config.json", "model.safetensors", "tokenizer.json"]);
        assert!(entry.is_locked());
        assert_eq!(entry.files[0].pin, Some(Pin { size: 4, sha256: HASH.parse().unwrap() }));
    }

    #[test]
    fn an_entry_without_a_file_or_with_an_unlocked_one_is_not_locked() {
        let none = "version = 1\n[[model]]\nsource = \"hf://a/b\"\ndtype = \"f32\"\n";
        let one = format!("{none}[[model.file]]\nname = \"config.json\"\nunlocked = true\n");
        for text in [none, &one] {
            assert!(!parse(text).unwrap().models()[0].is_locked());
        }
    }

    #[test]
    fn a_revision_must_be_the_entrys() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let manifest = parse(&locked(&format!("hf://o/n@{a}"))).unwrap();
        let find = |source: &str| manifest.find(&source.parse().unwrap()).is_some();
        assert!(find("hf://o/n") && find(&format!("hf://o/n@{a}")));
        assert!(!find(&format!("hf://o/n@{b}")) && !find("hf://o/n@main") && !find("hf://o/m"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let model = "version = 1\n[[model]]\nsource = \"a\"\ndtype = \"f32\"\n";
        let file = |rest: &str| format!("{model}[[model.file]]\nname = \"config.json\"\n{rest}\n");
        for text in ["", "version = 2", "version = 1\nother = 1", "version = 1\n[[model]]\nsource = \"a\""] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(matches!(parse(&format!("{model}other = 1")), Err(ManifestError::Syntax { .. })));
        assert!(matches!(parse(&file("other = 1")), Err(ManifestError::Syntax { .. })));
        for rest in [
            "",
            "size = 4",
            &format!("sha256 = \"{HASH}\""),
            "unlocked = false",
            "unlocked = true\nsize = 4",
            &format!("size = 4\nsha256 = \"{}\"", HASH.to_uppercase()),
            &format!("size = 4\nsha256 = \"{}\"", "0".repeat(63)),
            "unlocked = true\n[[model.file]]\nname = \"config.json\"\nunlocked = true",
            "unlocked = true\n[[model.file]]\nname = \"../config.json\"\nunlocked = true",
        ] {
            assert!(matches!(parse(&file(rest)), Err(ManifestError::File { model: 1, .. })), "{rest}");
        }
        let twice = format!("{model}[[model]]\nsource = \"a\"\ndtype = \"f16\"\n");
        assert_eq!(parse(&twice), Err(ManifestError::Duplicate { model: 2 }));
        assert_eq!(parse(&locked("hf://a/b@main")), Err(ManifestError::Revision { model: 1 }));
        let partial = file(&format!("size = 4\nsha256 = \"{HASH}\""));
        assert_eq!(parse(&partial), Err(ManifestError::Incomplete { model: 1 }));
    }
}
