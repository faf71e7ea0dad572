//! Weights from safetensors or GGUF, some rows at a time: never a second copy of them.
//!
//! Every name and shape is held against the configuration before anything is allocated, so neither a wrong
//! file nor a wrong configuration can ask for memory that the file does not fill.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Seek, SeekFrom};

use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;

use super::config::{Config, Part, Tensor};
use super::files::{ModelFiles, ReadSeek};
use super::gguf::Header;
use super::{ModelError, WeightsError};
use codeseal_kernels::cpu::Source;

/// The weights of a model that is in one file.
const SINGLE: &str = "model.safetensors";
/// Says which file holds what, if there are several.
const INDEX: &str = "model.safetensors.index.json";
/// The weights of a model that is one GGUF file.
const GGUF: &str = "model.gguf";
/// The longest header of a file and the largest index, in bytes; those of CodeGemma 7B are below 64 KiB.
const MAX_HEADER_BYTES: u64 = 16 * 1024 * 1024;
/// About how many bytes are read at a time.
const READ_BYTES: usize = 4 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// An open file of weights.
struct Shard {
    file: Box<dyn ReadSeek>,
    contents: Contents,
}

/// What is in a file.
enum Contents {
    Safetensors {
        metadata: Metadata,
        /// Where the tensors begin, in bytes.
        start: u64,
    },
    Gguf {
        header: Header,
        file_bytes: u64,
    },
}

/// The shape of the model that is one GGUF file among `files`; nothing if there is no such file.
///
/// # Errors
/// The file is not readable, malformed, or not a Gemma's.
pub(super) fn gguf_config(files: &ModelFiles) -> Result<Option<Config>, ModelError> {
    if !files.has(GGUF) {
        return Ok(None);
    }
    let file = files.open(GGUF).map_err(WeightsError::Read)?;
    Header::read(BufReader::new(file))?.config().map(Some)
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

    /// Whether norms are whole, as in GGUF, or by how much they are more than 1.
    pub(super) fn norms_are_whole(&self) -> bool {
        self.shards.iter().any(|shard| matches!(shard.contents, Contents::Gguf { .. }))
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
            // Whole panels, which take their rows at once.
            let together = (READ_BYTES / width).next_multiple_of(16);
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
    for (shard, opened) in shards.iter().enumerate() {
        if let Some((source, offset, length)) = opened.find(&tensor)? {
            return Ok(Planned { tensor, source, shard, offset, length });
        }
    }
    Err(WeightsError::Missing(tensor.name))
}

/// Opens the files that hold the `wanted` tensors.
fn open(files: &ModelFiles, wanted: &[Tensor]) -> Result<Vec<Shard>, WeightsError> {
    if files.has(GGUF) {
        return Ok(vec![Shard::open_gguf(files)?]);
    }
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
        Ok(Self { file, contents: Contents::Safetensors { metadata, start } })
    }

    fn open_gguf(files: &ModelFiles) -> Result<Self, WeightsError> {
        let mut file = files.open(GGUF)?;
        let file_bytes = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let header = Header::read(BufReader::new(&mut file))?;
        Ok(Self { file, contents: Contents::Gguf { header, file_bytes } })
    }

    /// How the tensor is written here, where it begins and how many bytes it takes; nothing if it is not here.
    fn find(&self, tensor: &Tensor) -> Result<Option<(Source, u64, usize)>, WeightsError> {
        let Tensor { name, shape, .. } = tensor;
        match &self.contents {
            Contents::Safetensors { metadata, start } => {
                let Some(info) = metadata.info(name) else { return Ok(None) };
                if info.shape != *shape {
                    return Err(WeightsError::Shape(name.clone()));
                }
                let source = match info.dtype {
                    Dtype::BF16 => Source::Bf16,
                    Dtype::F16 => Source::F16,
                    Dtype::F32 => Source::F32,
                    _ => return Err(WeightsError::Type(name.clone())),
                };
                let (from, to) = info.data_offsets;
                Ok(Some((source, start + from as u64, to - from)))
            }
            Contents::Gguf { header, file_bytes } => {
                let (found, source, offset) = header.find(name)?;
                // A row is whole blocks, and a vector's rows are single numbers.
                let row = source.bytes(shape.get(1).copied().unwrap_or(1));
                let (true, Some(row)) = (found == shape, row) else {
                    return Err(WeightsError::Shape(name.clone()));
                };
                let length = row.checked_mul(tensor.rows()).ok_or(WeightsError::Incomplete)?;
                let end = offset.checked_add(length as u64);
                if end.is_none_or(|end| end > *file_bytes) {
                    return Err(WeightsError::Incomplete);
                }
                Ok(Some((source, offset, length)))
            }
        }
    }
}
