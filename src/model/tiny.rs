//! The small model that is part of the binary, so that demo and tests need neither network nor disk.

use super::ModelFiles;

/// What it is called.
pub const TINY_MODEL_NAME: &str = "codeseal-tiny";

/// Its files. What it is and how it was made: `models/tiny/README.md`.
const FILES: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../models/tiny/config.json")),
    ("generation_config.json", include_bytes!("../../models/tiny/generation_config.json")),
    ("model.safetensors", include_bytes!("../../models/tiny/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../models/tiny/tokenizer.json")),
];

impl ModelFiles {
    /// The files of the embedded model.
    pub fn tiny() -> Self {
        Self::embedded(FILES)
    }
}
