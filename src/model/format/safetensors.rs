//! The header of a safetensors file, and the index of a model in shards.

use std::collections::BTreeMap;
use std::io::Read;

use codeseal_kernels::cpu::Source;
use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;

use super::super::error::{ModelError, WeightsError};
use super::super::files::ModelFiles;
use super::super::layout::INDEX;
use super::Extent;

/// The longest header and the largest index, in bytes; those of CodeGemma 7B are below 64 KiB.
const MAX_HEADER_BYTES: u64 = 16 * 1024 * 1024;

/// What the file says before its tensors begin.
pub(super) struct Header {
    metadata: Metadata,
    /// Where the tensors begin, in bytes.
    start: u64,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Header {
    /// Reads the header of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// It is malformed, or the file is longer or shorter than it says.
    pub(super) fn read(mut file: impl Read, file_bytes: u64) -> Result<Self, WeightsError> {
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err(WeightsError::Incomplete);
        }
        let mut header = Vec::new();
        file.take(length).read_to_end(&mut header)?;
        // Checks that the tensors lie end to end and are as long as their shapes say.
        let metadata: Metadata = serde_json::from_slice(&header).map_err(WeightsError::Malformed)?;
        let start = 8 + length;
        if start.checked_add(metadata.data_len() as u64) != Some(file_bytes) {
            return Err(WeightsError::Incomplete);
        }
        Ok(Self { metadata, start })
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.tensors().into_keys().collect()
    }

    /// As [`super::Shard::find`].
    pub(super) fn find(&self, own_name: &str, name: &str, shape: &[usize]) -> Result<Extent, WeightsError> {
        let info = self.metadata.info(own_name).ok_or_else(|| WeightsError::Missing(name.to_owned()))?;
        if info.shape != shape {
            return Err(WeightsError::Shape(name.to_owned()));
        }
        let source = match info.dtype {
            Dtype::BF16 => Source::Bf16,
            Dtype::F16 => Source::F16,
            Dtype::F32 => Source::F32,
            _ => return Err(WeightsError::Type(name.to_owned())),
        };
        let (from, to) = info.data_offsets;
        Ok(Extent { source, offset: self.start + from as u64, length: to - from })
    }
}

/// Checks that the index, if there is one, names no file but those of the model. Which of them holds a tensor, their
/// headers say.
///
/// # Errors
/// It is malformed, or names another file.
pub(super) fn check_index(files: &ModelFiles) -> Result<(), ModelError> {
    let layout = files.layout()?;
    if !layout.has(INDEX) {
        return Ok(());
    }
    let json = files.read(INDEX, MAX_HEADER_BYTES)?;
    let index: Index =
        serde_json::from_slice(&json).map_err(WeightsError::Malformed).map_err(ModelError::in_file(INDEX))?;
    for (tensor, file) in index.weight_map {
        if !layout.weights().names().iter().any(|name| name.as_str() == file) {
            let [tensor, file] = [tensor, file].map(|text| text.escape_debug().to_string());
            return Err(ModelError::in_file(INDEX)(WeightsError::IndexEntry { tensor, file }));
        }
    }
    Ok(())
}
