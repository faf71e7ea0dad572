//! A Gemma's files, opened: its configuration and its tensors.
//!
//! Each header is parsed once, by [`Checkpoint::open`]; what needs the configuration, the memory that the model takes or
//! the tensors asks the checkpoint. Every name and shape is checked against the configuration before anything is
//! allocated, so neither a wrong file nor a wrong configuration can ask for memory that the file does not fill.
//!
//! Tensors are read some rows at a time, each file once and from end to end: there is never a second copy of the weights.
//! An excerpt ([`Checkpoint::first_layers`]) is the exception: its tensors are in memory.

use std::collections::BTreeMap;

use codeseal_kernels::cpu::{Format, Source};

use super::super::error::{ModelError, WeightsError};
use super::super::files::{Meter, ModelFiles};
use super::super::format::gguf::{self, Header};
use super::super::format::{Extent, Shard};
use super::super::layout::{CONFIG, GENERATION};
use super::super::quantize::Quantize;
use super::super::stream::{Job, Part, StreamError, stream};
use super::config::{Config, check_generation};
use super::gguf::{ARCHITECTURE, Assumption, GgufConfig};
use super::tensors::{Parameter, Tensor};

/// What the names of a model's tensors begin with, unless only the part below its head was saved.
const PREFIX: &str = "model.";
/// A buffer of old checkpoints, which follows from the configuration.
const FREQUENCIES: &str = "rotary_emb.inv_freq";
/// The largest configuration that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 1024 * 1024;
/// About how many bytes are read at a time.
const READ_BYTES: usize = 4 << 20;

/// A model's files, opened and checked: all tensors that the configuration asks for are there, and no others.
pub struct Checkpoint {
    files: ModelFiles,
    config: Config,
    assumption: Option<Assumption>,
    shards: Vec<Shard>,
    /// In the order in which they lie in each file: a disk reads best in one direction.
    tensors: Vec<StoredTensor>,
    /// Whether the shards are whole files. An excerpt has no hash of a file, and reading it is no progress.
    whole: bool,
}

/// A tensor, and where its bytes are.
struct StoredTensor {
    tensor: Tensor,
    shard: usize,
    extent: Extent,
}

/// The shard of each tensor and its name there, by its name in safetensors.
type Catalogue = BTreeMap<String, (usize, String)>;

/// Some whole rows of a tensor, as they are in the file.
pub(super) struct Rows<'a> {
    pub(super) parameter: Parameter,
    /// The row of the parameter that the first one is.
    pub(super) first: usize,
    pub(super) source: Source,
    pub(super) bytes: &'a [u8],
}

/// Whole rows of a tensor that are read together.
struct Piece<'a> {
    stored: &'a StoredTensor,
    /// The first of them.
    first: usize,
}

impl Checkpoint {
    /// Opens the model in `files`: parses the configuration and the header of each file of weights, and reads a head of its
    /// own, if there is one, which must equal the embedding.
    ///
    /// # Errors
    /// A file is missing or malformed, or does not describe a Gemma; a tensor is missing, or of another shape or type than
    /// it must be, or has no place in the model.
    pub fn open(files: &ModelFiles) -> Result<Self, ModelError> {
        if files.has(GENERATION)? {
            let json = files.read(GENERATION, MAX_CONFIG_BYTES)?;
            check_generation(&json).map_err(ModelError::in_file(GENERATION))?;
        }
        let (config, assumption, shards) = if files.is_gguf()? {
            let shards = Shard::open_all(files)?;
            let (config, assumption) = gguf_config(files, &shards)?;
            (config, assumption, shards)
        } else {
            let json = files.read(CONFIG, MAX_CONFIG_BYTES)?;
            let config = Config::parse(&json).map_err(ModelError::in_file(CONFIG))?;
            (config, None, Shard::open_all(files)?)
        };
        let mut checkpoint =
            Self { files: files.clone(), config, assumption, shards, tensors: Vec::new(), whole: true };
        checkpoint.find_tensors()?;
        Ok(checkpoint)
    }

    /// The first `layers` layers with the embedding and the last norm: a model of the same shapes. Its tensors, and no others,
    /// are read here, once, and kept in memory, so that it can be loaded several times. It has no part in the hashes and the
    /// progress of [`Checkpoint::files`].
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn first_layers(&mut self, layers: usize) -> Result<Self, ModelError> {
        let config = Config { num_layers: self.config.num_layers.min(layers), ..self.config.clone() };
        let (mut shards, mut tensors) = (Vec::new(), Vec::new());
        for (number, shard) in self.shards.iter_mut().enumerate() {
            let kept = self.tensors.iter().filter(|stored| stored.shard == number && stored.is_in(&config));
            let mut content = Vec::with_capacity(kept.clone().map(|stored| stored.extent.length).sum());
            for StoredTensor { tensor, extent, .. } in kept {
                let offset = content.len();
                content.resize(offset + extent.length, 0);
                shard.read_at(extent.offset, content.get_mut(offset..).unwrap_or_default())?;
                let extent = Extent { offset: offset as u64, ..*extent };
                tensors.push(StoredTensor { tensor: tensor.clone(), shard: number, extent });
            }
            shards.push(shard.with_content(content));
        }
        let (files, assumption) = (self.files.clone(), self.assumption);
        Ok(Self { files, config, assumption, shards, tensors, whole: false })
    }

    /// The memory that [`Checkpoint::first_layers`] takes, in bytes.
    pub(crate) fn first_layers_bytes(&self, layers: usize) -> u64 {
        let config = Config { num_layers: layers, ..self.config.clone() };
        let kept = self.tensors.iter().filter(|stored| stored.is_in(&config));
        kept.map(|stored| stored.extent.length as u64).sum()
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The files that it was opened from, whose digest covers all that is read.
    pub fn files(&self) -> &ModelFiles {
        &self.files
    }

    /// A member of the configuration that is in no file, so that Gemma's default is taken for it.
    pub fn assumption(&self) -> Option<Assumption> {
        self.assumption
    }

    /// Whether scales of norms are stored as they are multiplied, as in GGUF. Safetensors have Gemma's own form, which is
    /// less by 1.
    pub(super) fn norms_include_one(&self) -> bool {
        self.shards.iter().any(|shard| shard.gguf().is_some())
    }

    /// In which format the matrix `parameter` is kept.
    pub(super) fn format(&self, parameter: Parameter, quantize: Quantize) -> Format {
        let tensors = self.tensors.iter().filter(|stored| stored.tensor.parameter == parameter);
        quantize.format(tensors.map(|stored| stored.extent.source))
    }

    /// Bytes of all tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.tensors.iter().map(|stored| stored.extent.length as u64).sum()
    }

    /// Reads each file of weights once, from end to end, and calls `fill` with some rows of a tensor after the other. The rows
    /// of a tensor come in their order. Leaves the hash of each file with [`Checkpoint::files`], unless this is an excerpt.
    ///
    /// # Errors
    /// A file cannot be read, or `fill` fails.
    pub(super) fn read(
        &mut self,
        mut fill: impl FnMut(Rows<'_>) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let (tensors, files, unmetered) = (&self.tensors, &self.files, Meter::default());
        let meter = if self.whole { files.meter() } else { &unmetered };
        let mut names = Vec::new();
        let jobs = self.shards.iter_mut().enumerate().map(|(number, shard)| {
            let (name, file, file_bytes) = shard.file();
            names.push(name.clone());
            let own = tensors.iter().filter(|stored| stored.shard == number);
            Job { file, parts: parts(own, file_bytes) }
        });
        let jobs: Vec<_> = jobs.collect();
        let lengths = jobs.iter().flat_map(|job| job.parts.iter().map(|part| part.length as u64));
        meter.begin(lengths.sum());
        let hashes = stream(jobs, self.whole && files.are_hashed(), meter, |piece: &Piece<'_>, bytes| {
            let StoredTensor { tensor, extent, .. } = piece.stored;
            fill(Rows {
                parameter: tensor.parameter,
                first: tensor.first_row + piece.first,
                source: extent.source,
                bytes,
            })
        });
        let hashes = hashes.map_err(|error| match error {
            StreamError::Read(number, error) => {
                let name = names.get(number).map_or("", |name| name.as_str());
                ModelError::in_file(name)(WeightsError::Read(error))
            }
            StreamError::Consume(error) => error,
        })?;
        for (name, hash) in names.iter().zip(hashes) {
            if let Some(hash) = hash {
                files.record(name, hash)?;
            }
        }
        Ok(())
    }

    /// Finds what the configuration asks for in the shards.
    fn find_tensors(&mut self) -> Result<(), ModelError> {
        let (expected, head) = (self.config.tensors(), self.config.head());
        let catalogue = self.catalogue(&expected, &head)?;
        for tensor in expected {
            let stored = self.find(&catalogue, tensor)?;
            self.tensors.push(stored);
        }
        match catalogue.get(&head.name) {
            Some((_, own_name)) => {
                let head = self.find(&catalogue, head)?;
                let embedding = |stored: &&StoredTensor| stored.tensor.parameter == Parameter::Embedding;
                let embedding = self.tensors.iter().find(embedding).ok_or(WeightsError::NoHead)?;
                if !equal(&mut self.shards, &head, embedding)? {
                    let file = self.shards.get(head.shard).map_or("", Shard::name);
                    let error = WeightsError::OtherHead(own_name.clone());
                    return Err(ModelError::in_file(file)(error));
                }
            }
            None if !self.config.tied_embeddings => return Err(WeightsError::NoHead.into()),
            None => {}
        }
        self.tensors.sort_by_key(|stored| (stored.shard, stored.extent.offset));
        for (before, stored) in self.tensors.iter().zip(self.tensors.iter().skip(1)) {
            let end = before.extent.offset + before.extent.length as u64;
            if before.shard == stored.shard && end > stored.extent.offset {
                let file = self.shards.get(stored.shard).map_or("", Shard::name);
                return Err(ModelError::in_file(file)(WeightsError::Overlap(stored.tensor.name.clone())));
            }
        }
        Ok(())
    }

    /// What is in the shards: all that is `expected`, perhaps a head, and nothing else.
    ///
    /// As in transformers, names may lack the prefix or have it twice.
    fn catalogue(&self, expected: &[Tensor], head: &Tensor) -> Result<Catalogue, ModelError> {
        let mut names: BTreeMap<String, &str> = BTreeMap::new();
        let gguf = self.norms_include_one();
        for Tensor { name, gguf_name, .. } in expected.iter().chain([head]) {
            if gguf {
                names.insert(gguf_name.clone(), name);
            } else {
                names.extend([name.clone(), format!("{PREFIX}{name}")].map(|here| (here, name.as_str())));
                names.extend(name.strip_prefix(PREFIX).map(|here| (here.to_owned(), name.as_str())));
            }
        }
        let mut catalogue = Catalogue::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let wrong = ModelError::in_file(shard.name());
            for own_name in shard.tensors() {
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

    /// Where `tensor` is, which must be as the configuration implies.
    fn find(&self, catalogue: &Catalogue, tensor: Tensor) -> Result<StoredTensor, ModelError> {
        let found = catalogue.get(&tensor.name);
        let found = found.and_then(|(number, own_name)| Some((*number, self.shards.get(*number)?, own_name)));
        let Some((number, shard, own_name)) = found else {
            return Err(WeightsError::Missing(tensor.name).into());
        };
        let extent = shard.find(own_name, &tensor.name, &tensor.shape);
        let extent = extent.map_err(ModelError::in_file(shard.name()))?;
        Ok(StoredTensor { tensor, shard: number, extent })
    }
}

impl StoredTensor {
    /// Whether a model of `config` has it, which may have fewer layers than the checkpoint.
    fn is_in(&self, config: &Config) -> bool {
        !matches!(self.tensor.parameter, Parameter::Layer(layer, _) if layer >= config.num_layers)
    }
}

/// The configuration of a model in GGUF files, and what is assumed in it.
fn gguf_config(files: &ModelFiles, shards: &[Shard]) -> Result<(Config, Option<Assumption>), ModelError> {
    let name = |position: usize| shards.get(position).map_or("", Shard::name);
    let headers: Vec<&Header> = shards.iter().filter_map(Shard::gguf).collect();
    gguf::check_parts(&headers, ARCHITECTURE)
        .map_err(|(position, error)| ModelError::in_file(name(position))(error))?;
    let stated = GgufConfig::read(&headers).map_err(ModelError::in_file(name(0)))?;
    let beside = if files.has(CONFIG)? { Some(files.read(CONFIG, MAX_CONFIG_BYTES)?) } else { None };
    // Without a config.json, the error is in the GGUF file.
    let (file, assumption) = if beside.is_some() { (CONFIG, None) } else { (name(0), stated.assumption()) };
    let config = stated.merge(beside.as_deref()).map_err(ModelError::in_file(file))?;
    Ok((config, assumption))
}

impl ModelFiles {
    /// What no file says of the model, so that Gemma's default is taken for it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn assumption(&self) -> Result<Option<Assumption>, ModelError> {
        Ok(Checkpoint::open(self)?.assumption())
    }
}

/// The parts of a file of `file_bytes` bytes in which the tensors `stored` lie, in their order.
fn parts<'a>(stored: impl Iterator<Item = &'a StoredTensor>, file_bytes: u64) -> Vec<Part<Piece<'a>>> {
    let mut parts = Vec::new();
    let between = |parts: &mut Vec<_>, from: u64, to: u64| {
        let mut left = to.saturating_sub(from);
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(READ_BYTES);
            parts.push(Part { length, what: None });
            left -= length as u64;
        }
    };
    let mut position = 0;
    for stored in stored {
        let StoredTensor { tensor, extent, .. } = stored;
        between(&mut parts, position, extent.offset);
        let (rows, width) = (tensor.rows(), extent.length / tensor.rows());
        // Whole panels of the CPU's matrices, which take their rows at once.
        let together = (READ_BYTES / width).next_multiple_of(16);
        for first in (0..rows).step_by(together) {
            let length = together.min(rows - first) * width;
            parts.push(Part { length, what: Some(Piece { stored, first }) });
        }
        position = extent.offset + extent.length as u64;
    }
    between(&mut parts, position, file_bytes);
    parts
}

/// Whether both hold the same numbers.
fn equal(shards: &mut [Shard], a: &StoredTensor, b: &StoredTensor) -> Result<bool, ModelError> {
    let rows = a.tensor.rows();
    let (widths, one_type) =
        ([a, b].map(|stored| stored.extent.length / rows), a.extent.source == b.extent.source);
    let together = (READ_BYTES / widths[0].max(1)).max(1);
    let mut read = |stored: &StoredTensor, width: usize, first: usize| -> Result<Vec<u8>, ModelError> {
        let Some(shard) = shards.get_mut(stored.shard) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; together.min(rows - first) * width];
        shard.read_at(stored.extent.offset + (first * width) as u64, &mut bytes)?;
        Ok(bytes)
    };
    for first in (0..rows).step_by(together) {
        let (left, right) = (read(a, widths[0], first)?, read(b, widths[1], first)?);
        let bits = |source: Source, bytes: &[u8]| {
            source.to_f32(bytes).into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let equal = if one_type {
            left == right
        } else {
            bits(a.extent.source, &left) == bits(b.extent.source, &right)
        };
        if !equal {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
