//! Weights from safetensors, one tensor at a time: never a second copy of them all.
//!
//! Every name and shape is held against the configuration before anything is allocated, so neither a wrong
//! file nor a wrong configuration can ask for memory that the file does not fill.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom};

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use super::config::Config;
use super::files::{ModelFiles, ReadSeek};
use super::{ModelError, WeightsError};

/// The weights of a model that is in one file.
const SINGLE: &str = "model.safetensors";
/// Says which file holds what, if there are several.
const INDEX: &str = "model.safetensors.index.json";
/// The longest header of a file and the largest index, in bytes; those of CodeGemma 7B are below 64 KiB.
const MAX_HEADER_BYTES: u64 = 16 * 1024 * 1024;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// An open file of weights.
struct Shard {
    file: Box<dyn ReadSeek>,
    metadata: Metadata,
    /// Where the tensors begin, in bytes.
    start: u64,
}

/// Loads what `config` asks for as f32, calling `progress` with the bytes read and the bytes there are.
/// Tensors that the model does not use are not read.
///
/// # Errors
/// A file is missing or malformed, or a tensor is missing or of another shape or type than it must be.
pub(super) fn load(
    files: &ModelFiles,
    config: &Config,
    mut progress: impl FnMut(u64, u64),
) -> Result<HashMap<String, Tensor>, ModelError> {
    let wanted = config.tensors();
    let mut shards = open(files, &wanted)?;
    let plan =
        shards.values().flat_map(|shard| wanted.iter().filter_map(|(name, _)| shard.metadata.info(name)));
    let total = plan.map(byte_length).sum();
    let (mut done, mut tensors) = (0, HashMap::with_capacity(wanted.len()));
    progress(done, total);
    for shard in shards.values_mut() {
        for (name, shape) in in_file_order(&shard.metadata, &wanted) {
            let tensor = shard.read(name, shape)?;
            done += shard.metadata.info(name).map_or(0, byte_length);
            progress(done, total);
            tensors.insert(name.clone(), tensor);
        }
    }
    match wanted.into_iter().find(|(name, _)| !tensors.contains_key(name)) {
        Some((name, _)) => Err(WeightsError::Missing(name).into()),
        None => Ok(tensors),
    }
}

/// Opens the files that hold the `wanted` tensors, by name.
fn open(files: &ModelFiles, wanted: &[(String, Vec<usize>)]) -> Result<BTreeMap<String, Shard>, ModelError> {
    let mut shards = BTreeMap::new();
    if !files.has(INDEX) {
        shards.insert(String::from(SINGLE), Shard::open(files, SINGLE)?);
        return Ok(shards);
    }
    let json = files.read(INDEX, MAX_HEADER_BYTES).map_err(WeightsError::Read)?;
    let index: Index = serde_json::from_slice(&json).map_err(WeightsError::Malformed)?;
    for (tensor, _) in wanted {
        let file = index.weight_map.get(tensor).ok_or_else(|| WeightsError::Missing(tensor.clone()))?;
        if !shards.contains_key(file) {
            shards.insert(file.clone(), Shard::open(files, file)?);
        }
    }
    Ok(shards)
}

/// Those of `wanted` that the file holds, as they lie in it: a disk reads best in one direction.
fn in_file_order<'a>(
    metadata: &Metadata,
    wanted: &'a [(String, Vec<usize>)],
) -> Vec<&'a (String, Vec<usize>)> {
    let mut present: Vec<_> = wanted
        .iter()
        .filter_map(|tensor| metadata.info(&tensor.0).map(|info| (info.data_offsets.0, tensor)))
        .collect();
    present.sort_by_key(|(offset, _)| *offset);
    present.into_iter().map(|(_, tensor)| tensor).collect()
}

fn byte_length(info: &TensorInfo) -> u64 {
    (info.data_offsets.1 - info.data_offsets.0) as u64
}

impl Shard {
    fn open(files: &ModelFiles, name: &str) -> Result<Self, WeightsError> {
        let mut file = files.open(name)?;
        let file_bytes = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let mut length = [0; 8];
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err(WeightsError::Incomplete);
        }
        let mut header = Vec::new();
        (&mut file).take(length).read_to_end(&mut header)?;
        // Checks that the tensors lie end to end and are as long as their shapes say.
        let metadata: Metadata = serde_json::from_slice(&header).map_err(WeightsError::Malformed)?;
        let start = 8 + length;
        if start.checked_add(metadata.data_len() as u64) != Some(file_bytes) {
            return Err(WeightsError::Incomplete);
        }
        Ok(Self { file, metadata, start })
    }

    /// Reads the tensor `name`, which must have the shape `shape`.
    fn read(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let info = self.metadata.info(name).ok_or_else(|| WeightsError::Missing(name.to_owned()))?;
        if info.shape != shape {
            return Err(WeightsError::Shape(name.to_owned()).into());
        }
        let dtype = match info.dtype {
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            safetensors::Dtype::F32 => DType::F32,
            _ => return Err(WeightsError::Type(name.to_owned()).into()),
        };
        let (from, to) = info.data_offsets;
        let mut bytes = vec![0; to - from];
        self.file.seek(SeekFrom::Start(self.start + from as u64)).map_err(WeightsError::Read)?;
        self.file.read_exact(&mut bytes).map_err(WeightsError::Read)?;
        let tensor = Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }
}
