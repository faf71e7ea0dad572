//! Which files make a model: a closed set of names, so that no name can lead out of its directory.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::HubError;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Configuration and weights in one file, as llama.cpp reads them.
const GGUF: &str = "model.gguf";
/// Read if it is there.
const OPTIONAL: [&str; 2] = ["generation_config.json", "tokenizer_config.json"];

/// The name of a file that belongs to a model.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

/// No model has a file of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not the name of a model file")]
pub struct NotAModelFile;

impl FileName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the file holds weights.
    pub(super) fn is_weights(&self) -> bool {
        self.0 == SINGLE || self.0 == GGUF || self.shard().is_some()
    }

    /// `(3, 7)` of `model-00003-of-00007.safetensors`.
    fn shard(&self) -> Option<(u32, u32)> {
        let (number, count) =
            self.0.strip_prefix("model-")?.strip_suffix(".safetensors")?.split_once("-of-")?;
        let read = |digits: &str| -> Option<u32> {
            let five = digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
            if five { digits.parse().ok() } else { None }
        };
        let (number, count) = (read(number)?, read(count)?);
        (1..=count).contains(&number).then_some((number, count))
    }
}

impl FromStr for FileName {
    type Err = NotAModelFile;

    fn from_str(text: &str) -> Result<Self, NotAModelFile> {
        let name = Self(text.to_owned());
        let known = [CONFIG, TOKENIZER, SINGLE, INDEX, GGUF].contains(&text) || OPTIONAL.contains(&text);
        if known || name.shard().is_some() { Ok(name) } else { Err(NotAModelFile) }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks that `names` are one whole model: configuration, tokenizer, and weights in one file or in all shards of
/// one count with their index; or a tokenizer and one file that holds all else.
///
/// # Errors
/// [`HubError::Missing`], or [`HubError::TwoModels`] if weights are there twice, because the one that was
/// verified might then not be the one that is read.
pub(super) fn check_whole(names: &BTreeSet<FileName>) -> Result<(), HubError> {
    let require = |name: &str| {
        if names.iter().any(|known| known.0 == name) {
            Ok(())
        } else {
            Err(HubError::Missing { file: FileName(name.to_owned()) })
        }
    };
    if names.iter().any(|known| known.0 == GGUF) {
        require(TOKENIZER)?;
        let others = names.iter().any(|known| known.0 != GGUF && known.is_weights());
        return if others { Err(HubError::TwoModels) } else { Ok(()) };
    }
    require(CONFIG)?;
    require(TOKENIZER)?;
    let shards: Vec<_> = names.iter().filter_map(FileName::shard).collect();
    let has = |name: &str| names.iter().any(|known| known.0 == name);
    let Some(&(_, count)) = shards.first() else {
        return if has(INDEX) && has(SINGLE) { Err(HubError::TwoModels) } else { require(SINGLE) };
    };
    if has(SINGLE) || shards.iter().any(|&(_, other)| other != count) {
        return Err(HubError::TwoModels);
    }
    require(INDEX)?;
    (1..=count).try_for_each(|number| require(&format!("model-{number:05}-of-{count:05}.safetensors")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str]) -> Result<(), HubError> {
        let mut all: BTreeSet<FileName> = names.iter().map(|name| name.parse().unwrap()).collect();
        all.extend([CONFIG, TOKENIZER].map(|name| name.parse().unwrap()));
        check_whole(&all)
    }

    #[test]
    fn only_the_names_of_model_files_are_names() {
        for name in [CONFIG, SINGLE, "model-00001-of-00002.safetensors", "tokenizer_config.json"] {
            assert_eq!(name.parse::<FileName>().unwrap().as_str(), name);
        }
        for name in [
            "",
            "../config.json",
            "README.md",
            "model-1-of-2.safetensors",
            "model-00003-of-00002.safetensors",
            "model-00000-of-00002.safetensors",
            "model-0000+-of-00002.safetensors",
            "x/model.safetensors",
        ] {
            assert_eq!(name.parse::<FileName>(), Err(NotAModelFile), "{name:?}");
        }
    }

    #[test]
    fn one_file_or_all_shards_are_a_model() {
        let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
        assert!(check(&[SINGLE]).is_ok());
        assert!(check(&[first, second, INDEX, "generation_config.json"]).is_ok());
        assert!(matches!(check(&[]), Err(HubError::Missing { file }) if file.0 == SINGLE));
        assert!(matches!(check(&[first, second]), Err(HubError::Missing { file }) if file.0 == INDEX));
        assert!(matches!(check(&[first, INDEX]), Err(HubError::Missing { file }) if file.0 == second));
        assert!(matches!(check(&[SINGLE, first, second, INDEX]), Err(HubError::TwoModels)));
        assert!(matches!(check(&[SINGLE, INDEX]), Err(HubError::TwoModels)));
        assert!(matches!(
            check(&[first, "model-00002-of-00003.safetensors", INDEX]),
            Err(HubError::TwoModels)
        ));
    }

    #[test]
    fn one_gguf_file_needs_a_tokenizer_and_no_other_weights() {
        let of = |names: &[&str]| check_whole(&names.iter().map(|name| name.parse().unwrap()).collect());
        assert!(of(&[GGUF, TOKENIZER]).is_ok());
        assert!(of(&[GGUF, TOKENIZER, CONFIG]).is_ok());
        assert!(matches!(of(&[GGUF]), Err(HubError::Missing { file }) if file.0 == TOKENIZER));
        assert!(matches!(of(&[GGUF, TOKENIZER, SINGLE]), Err(HubError::TwoModels)));
    }

    #[test]
    fn the_configuration_is_needed() {
        let only_weights = BTreeSet::from([SINGLE.parse().unwrap()]);
        assert!(matches!(check_whole(&only_weights), Err(HubError::Missing { file }) if file.0 == CONFIG));
    }
}
