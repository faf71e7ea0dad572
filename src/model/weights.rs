//! Weights from safetensors or GGUF, some rows at a time: never a second copy of them.
//!
//! Every name and shape is held against the configuration before anything is allocated, so neither a wrong
//! file nor a wrong configuration can ask for memory that the file does not fill.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use safetensors::tensor::{Dtype, Metadata};
use serde::Deserialize;

use super::config::{Config, Part, Tensor};
use super::files::{ModelFiles, ReadSeek};
use super::gguf::{Header, Stated, parts};
use super::layout::{FileName, INDEX, WeightFiles};
use super::{ModelError, WeightsError};
use codeseal_kernels::cpu::Source;

/// The matrix that makes logits, where the file has it beside the embedding.
const HEAD: &str = "lm_head.weight";
/// What the names of a model's tensors begin with, unless only the part below its head was saved.
const PREFIX: &str = "model.";
/// A buffer of old checkpoints, which follows from the configuration.
const FREQUENCIES: &str = "rotary_emb.inv_freq";
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
    name: FileName,
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

/// Where each tensor is, by its name in safetensors: the number of the shard, and its name there.
type Catalogue = BTreeMap<String, (usize, String)>;

/// The shape of the model that is in a GGUF file, or the parts of one, among `files`, and the name of the (first) file;
/// nothing if there is no such file.
///
/// # Errors
/// A file is not readable, malformed, or not a Gemma's.
pub(super) fn gguf_config(files: &ModelFiles) -> Result<Option<(Stated, String)>, ModelError> {
    let WeightFiles::Gguf(names) = files.layout()?.weights() else { return Ok(None) };
    let mut headers = Vec::with_capacity(names.len());
    for name in names {
        let header = Header::read(BufReader::new(files.open(name.as_str())?));
        headers.push(header.map_err(ModelError::in_file(name.as_str()))?);
    }
    let name = |position: usize| names.get(position).map_or("", FileName::as_str);
    parts::check(&headers).map_err(|(position, error)| ModelError::in_file(name(position))(error))?;
    let Some(header) = Header::merged(headers) else { return Ok(None) };
    let stated = header.config().map_err(ModelError::in_file(name(0)))?;
    Ok(Some((stated, name(0).to_owned())))
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
    /// Opens the files that hold what a model of `config` consists of. Reads their headers, and a head of its own, if
    /// there is one, which must equal the embedding.
    ///
    /// # Errors
    /// A file is missing or malformed, a tensor is missing or of another shape or type than it must be, or is of no
    /// use.
    pub(super) fn open(files: &ModelFiles, config: &Config) -> Result<Self, ModelError> {
        let wanted = config.tensors();
        let mut shards = open(files)?;
        let catalogue = catalogue(&shards, &wanted)?;
        let mut plan = wanted
            .into_iter()
            .map(|tensor| find(&shards, &catalogue, tensor))
            .collect::<Result<Vec<_>, _>>()?;
        match catalogue.get(HEAD) {
            Some((_, own_name)) => {
                let shape = vec![config.vocab_size, config.hidden_size];
                let head = Tensor { name: HEAD.to_owned(), shape, part: Part::Embedding, first_row: 0 };
                let head = find(&shards, &catalogue, head)?;
                let embedding = plan.iter().find(|planned| planned.tensor.part == Part::Embedding);
                let Some(embedding) = embedding else { return Err(WeightsError::NoHead.into()) };
                let shard = shards.get(head.shard).map_or("", |shard| shard.name.as_str()).to_owned();
                if !same(&mut shards, &head, embedding)? {
                    let error = WeightsError::OtherHead(own_name.clone());
                    return Err(ModelError::in_file(&shard)(error));
                }
            }
            None if !config.tied_embeddings => return Err(WeightsError::NoHead.into()),
            None => {}
        }
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
            let Some(Shard { file, name, .. }) = self.shards.get_mut(*shard) else { continue };
            let wrong = |error| ModelError::in_file(name.as_str())(WeightsError::Read(error));
            file.seek(SeekFrom::Start(*offset)).map_err(wrong)?;
            let (rows, width) = (tensor.rows(), length / tensor.rows());
            // Whole panels, which take their rows at once.
            let together = (READ_BYTES / width).next_multiple_of(16);
            for first in (0..rows).step_by(together) {
                bytes.resize(together.min(rows - first) * width, 0);
                file.read_exact(&mut bytes).map_err(wrong)?;
                fill(tensor, tensor.first_row + first, *source, &bytes)?;
                done += bytes.len() as u64;
                progress(done, total);
            }
        }
        Ok(())
    }
}

/// Where `tensor` is, which must be as the configuration implies.
fn find(shards: &[Shard], catalogue: &Catalogue, tensor: Tensor) -> Result<Planned, ModelError> {
    let missing = |tensor: Tensor| WeightsError::Missing(tensor.name);
    let Some((number, own_name)) = catalogue.get(&tensor.name) else { return Err(missing(tensor).into()) };
    let Some(shard) = shards.get(*number) else { return Err(missing(tensor).into()) };
    let found = shard.find(&tensor, own_name).map_err(ModelError::in_file(shard.name.as_str()))?;
    let (source, offset, length) = found;
    Ok(Planned { tensor, source, shard: *number, offset, length })
}

/// What is in `shards`, by its name in safetensors: all that is `wanted`, perhaps a head, and nothing else.
///
/// As in transformers, names may lack the prefix or have it twice.
fn catalogue(shards: &[Shard], wanted: &[Tensor]) -> Result<Catalogue, ModelError> {
    let wanted = || wanted.iter().map(|tensor| tensor.name.as_str()).chain([HEAD]);
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    let gguf = shards.iter().any(|shard| matches!(shard.contents, Contents::Gguf { .. }));
    for name in wanted() {
        if gguf {
            names.extend(parts::name_here(name).map(|here| (here, name)));
        } else {
            names.extend([name.to_owned(), format!("{PREFIX}{name}")].map(|here| (here, name)));
            names.extend(name.strip_prefix(PREFIX).map(|here| (here.to_owned(), name)));
        }
    }
    let mut catalogue = Catalogue::new();
    for (number, shard) in shards.iter().enumerate() {
        let wrong = ModelError::in_file(shard.name.as_str());
        for own_name in shard.names() {
            let Some(name) = names.get(own_name.as_str()) else {
                if !gguf && own_name.contains(FREQUENCIES) {
                    continue;
                }
                return Err(wrong(WeightsError::Unused(own_name.escape_debug().to_string())));
            };
            if let Some((_, other)) = catalogue.insert((*name).to_owned(), (number, own_name)) {
                return Err(wrong(WeightsError::Twice(other)));
            }
        }
    }
    Ok(catalogue)
}

/// Whether both have the same numbers.
fn same(shards: &mut [Shard], a: &Planned, b: &Planned) -> Result<bool, ModelError> {
    let rows = a.tensor.rows();
    let (widths, one_type) = ([a.length / rows, b.length / rows], a.source == b.source);
    let together = (READ_BYTES / widths[0].max(1)).max(1);
    let mut read = |planned: &Planned, width: usize, first: usize| -> Result<Vec<u8>, ModelError> {
        let Some(Shard { file, name, .. }) = shards.get_mut(planned.shard) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; together.min(rows - first) * width];
        let read = file.seek(SeekFrom::Start(planned.offset + (first * width) as u64));
        let read = read.and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|error| ModelError::in_file(name.as_str())(WeightsError::Read(error)))?;
        Ok(bytes)
    };
    for first in (0..rows).step_by(together) {
        let (left, right) = (read(a, widths[0], first)?, read(b, widths[1], first)?);
        let bits = |source: Source, bytes: &[u8]| {
            let mut numbers = vec![0.0; source.numbers(bytes.len())];
            source.read(bytes, &mut numbers);
            numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let equal = if one_type { left == right } else { bits(a.source, &left) == bits(b.source, &right) };
        if !equal {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Opens all files that hold weights.
fn open(files: &ModelFiles) -> Result<Vec<Shard>, ModelError> {
    let layout = files.layout()?;
    let names = layout.weights().names();
    if layout.has(INDEX) {
        check_index(files, names)?;
    }
    let gguf = matches!(layout.weights(), WeightFiles::Gguf(_));
    let open = |name: &FileName| {
        let file = files.open(name.as_str())?;
        let opened = if gguf { Shard::open_gguf(name, file) } else { Shard::open(name, file) };
        opened.map_err(ModelError::in_file(name.as_str()))
    };
    names.iter().map(open).collect()
}

/// Checks that the index names no file but those of the model. Which of them holds a tensor, their headers say.
fn check_index(files: &ModelFiles, names: &[FileName]) -> Result<(), ModelError> {
    let json = files.read(INDEX, MAX_HEADER_BYTES)?;
    let index: Index =
        serde_json::from_slice(&json).map_err(WeightsError::Malformed).map_err(ModelError::in_file(INDEX))?;
    for (tensor, file) in index.weight_map {
        if !names.iter().any(|name| name.as_str() == file) {
            let [tensor, file] = [tensor, file].map(|text| text.escape_debug().to_string());
            return Err(ModelError::in_file(INDEX)(WeightsError::IndexEntry { tensor, file }));
        }
    }
    Ok(())
}

impl Shard {
    fn open(name: &FileName, mut file: Box<dyn ReadSeek>) -> Result<Self, WeightsError> {
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
        Ok(Self { name: name.clone(), file, contents: Contents::Safetensors { metadata, start } })
    }

    fn open_gguf(name: &FileName, mut file: Box<dyn ReadSeek>) -> Result<Self, WeightsError> {
        let file_bytes = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        let header = Header::read(BufReader::new(&mut file))?;
        Ok(Self { name: name.clone(), file, contents: Contents::Gguf { header, file_bytes } })
    }

    /// The names of the tensors, as they are here.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = match &self.contents {
            Contents::Safetensors { metadata, .. } => metadata.tensors().into_keys().collect(),
            Contents::Gguf { header, .. } => header.names().map(str::to_owned).collect(),
        };
        names.sort();
        names
    }

    /// How the tensor, which is here called `own_name`, is written, where it begins and how many bytes it takes.
    fn find(&self, tensor: &Tensor, own_name: &str) -> Result<(Source, u64, usize), WeightsError> {
        let Tensor { name, shape, .. } = tensor;
        match &self.contents {
            Contents::Safetensors { metadata, start } => {
                let info = metadata.info(own_name).ok_or_else(|| WeightsError::Missing(name.clone()))?;
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
                Ok((source, start + from as u64, to - from))
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
                Ok((source, offset, length))
            }
        }
    }
}
