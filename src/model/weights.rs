//! Weights from safetensors, some rows at a time: never a second copy of them.
//!
//! Every name and shape is held against the configuration before anything is allocated, so neither a wrong
//! file nor a wrong configuration can ask for memory that the file does not fill.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};

use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;

use super::config::{Part, Tensor};
use super::files::{ModelFiles, ReadSeek};
use super::{ModelError, WeightsError};
use crate::kernels::cpu::Source;

/// The weights of a model that is in one file.
const SINGLE: &str = "model.safetensors";
/// Says which file holds what, if there are several.
const INDEX: &str = "model.safetensors.index.json";
/// The longest header of a file and the largest index, in bytes; those of CodeGemma 7B are below 64 KiB.
const MAX_HEADER_BYTES: u64 = 16 * 1024 * 1024;
/// About how many bytes are read at a time.
const READ_BYTES: usize = 1 << 20;

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

/// The files of a model's weights, opened and checked: all that is wanted is there.
pub(super) struct Weights {
    shards: Vec<Shard>,
    /// What is wanted, in the order in which it lies in each file.
    plan: Vec<Planned>,
}

/// A tensor, and where its bytes are.
struct Planned {
    tensor: Tensor,
    source: Source,
    shard: usize,
    /// Within the shard's file.
    offset: u64,
    length: usize,
}

impl Weights {
    /// Opens the files that hold `wanted`, and reads nothing but their headers.
    ///
    /// # Errors
    /// A file is missing or malformed, or a tensor is missing or of another shape or type than it must be.
    pub(super) fn open(files: &ModelFiles, wanted: Vec<Tensor>) -> Result<Self, WeightsError> {
        let shards = open(files, &wanted)?;
        let mut plan =
            wanted.into_iter().map(|tensor| find(&shards, tensor)).collect::<Result<Vec<_>, _>>()?;
        // A disk reads best in one direction.
        plan.sort_by_key(|planned| (planned.shard, planned.offset));
        Ok(Self { shards, plan })
    }

    /// In what types the pieces of `part` are written.
    pub(super) fn sources(&self, part: Part) -> impl Iterator<Item = Source> {
        self.plan.iter().filter(move |planned| planned.tensor.part == part).map(|planned| planned.source)
    }

    /// Hands every tensor to `fill`, some rows at a time: the tensor, the first row's number in its part, how the
    /// numbers are written, and the rows. `progress` hears the bytes read and the bytes there are.
    ///
    /// # Errors
    /// A file is not readable, or `fill` fails.
    pub(super) fn read(
        &mut self,
        mut progress: impl FnMut(u64, u64),
        mut fill: impl FnMut(&Tensor, usize, Source, &[u8]) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let total = self.plan.iter().map(|planned| planned.length as u64).sum();
        let (mut done, mut bytes) = (0, Vec::new());
        progress(done, total);
        for Planned { tensor, source, shard, offset, length } in &self.plan {
            let Some(Shard { file, .. }) = self.shards.get_mut(*shard) else { continue };
            file.seek(SeekFrom::Start(*offset)).map_err(WeightsError::Read)?;
            let (rows, width) = (tensor.rows(), length / tensor.rows());
            let together = (READ_BYTES / width).max(1);
            for first in (0..rows).step_by(together) {
                bytes.resize(together.min(rows - first) * width, 0);
                file.read_exact(&mut bytes).map_err(WeightsError::Read)?;
                fill(tensor, tensor.first_row + first, *source, &bytes)?;
                done += bytes.len() as u64;
                progress(done, total);
            }
        }
        Ok(())
    }
}

/// Where `tensor` is, which must be as the configuration implies.
fn find(shards: &[Shard], tensor: Tensor) -> Result<Planned, WeightsError> {
    let found = shards.iter().enumerate().find_map(|(shard, Shard { metadata, start, .. })| {
        Some((shard, metadata.info(&tensor.name)?, start))
    });
    let Some((shard, info, start)) = found else { return Err(WeightsError::Missing(tensor.name)) };
    if info.shape != tensor.shape {
        return Err(WeightsError::Shape(tensor.name));
    }
    let source = match info.dtype {
        Dtype::BF16 => Source::Bf16,
        Dtype::F16 => Source::F16,
        Dtype::F32 => Source::F32,
        _ => return Err(WeightsError::Type(tensor.name)),
    };
    let (from, to) = info.data_offsets;
    Ok(Planned { tensor, source, shard, offset: start + from as u64, length: to - from })
}

/// Opens the files that hold the `wanted` tensors.
fn open(files: &ModelFiles, wanted: &[Tensor]) -> Result<Vec<Shard>, WeightsError> {
    if !files.has(INDEX) {
        return Ok(vec![Shard::open(files, SINGLE)?]);
    }
    let json = files.read(INDEX, MAX_HEADER_BYTES)?;
    let index: Index = serde_json::from_slice(&json).map_err(WeightsError::Malformed)?;
    let mut names = BTreeSet::new();
    for Tensor { name, .. } in wanted {
        names.insert(index.weight_map.get(name).ok_or_else(|| WeightsError::Missing(name.clone()))?);
    }
    names.into_iter().map(|name| Shard::open(files, name)).collect()
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
}
