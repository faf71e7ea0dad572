//! The header of a GGUF file: what llama.cpp reads, as the `gguf` package writes it. Versions 2 and 3, little endian.
//!
//! The file comes from outside, so nothing is allocated by a number that it says before as many bytes have been read.

mod stated;
mod types;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use serde_json::{Value, json};

use super::config::Config;
use super::{ModelError, WeightsError};
use codeseal_kernels::cpu::Source;

pub(super) mod parts;

pub use self::stated::Assumption;
pub(super) use self::stated::Stated;

/// The first bytes of every such file.
const MAGIC: [u8; 4] = *b"GGUF";
/// The longest header that is read, in bytes: a vocabulary of 256,000 with its merges takes about 15 MB.
const MAX_HEADER_BYTES: u64 = 128 << 20;
/// The most members and the most tensors; CodeGemma 7B has 254.
const MAX_ENTRIES: u64 = 1 << 16;
/// Names and texts that are kept are no longer than this, in bytes; longer ones are passed over.
const MAX_KEPT: u64 = 256;
/// How deep arrays may lie in arrays.
const MAX_DEPTH: u32 = 4;
/// Dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// Where tensors begin is a multiple of this, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// The largest alignment that a file may ask for.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// What members of this architecture begin with.
const ARCHITECTURE: &str = "gemma";

/// What a GGUF file says before its weights begin.
pub(super) struct Header {
    /// Numbers and short texts by name. What else there is, a vocabulary for instance, is passed over.
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Place>,
    /// Where the tensors begin, in bytes.
    start: u64,
}

/// A tensor of the file.
pub(super) struct Place {
    /// Rows first, as everywhere else.
    pub(super) shape: Vec<usize>,
    /// The type's number.
    kind: u32,
    /// Within all tensors, in bytes.
    offset: u64,
}

impl Header {
    /// Reads a header and nothing behind it.
    ///
    /// # Errors
    /// The file is of another format, cut, or its header is longer than any can rightly be.
    pub(super) fn read(file: impl BufRead) -> Result<Self, WeightsError> {
        let mut reader = Reader { file: file.take(MAX_HEADER_BYTES), position: 0 };
        let magic = reader.bytes::<4>()?;
        let version = reader.u32()?;
        if magic != MAGIC || !(2..=3).contains(&version) {
            return Err(WeightsError::NotGguf);
        }
        let (tensor_count, member_count) = (reader.u64()?, reader.u64()?);
        if tensor_count.max(member_count) > MAX_ENTRIES {
            return Err(WeightsError::NotGguf);
        }
        let mut metadata = BTreeMap::new();
        for _ in 0..member_count {
            let name = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, MAX_DEPTH)?;
            if let (Some(name), Some(value)) = (name, value) {
                metadata.insert(name, value);
            }
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = reader.text()?.ok_or(WeightsError::NotGguf)?;
            let count = reader.u32()?;
            if count > MAX_DIMENSIONS {
                return Err(WeightsError::NotGguf);
            }
            let mut shape = Vec::new();
            for _ in 0..count {
                shape.insert(0, usize::try_from(reader.u64()?).map_err(|_| WeightsError::NotGguf)?);
            }
            let (kind, offset) = (reader.u32()?, reader.u64()?);
            if tensors.insert(name, Place { shape, kind, offset }).is_some() {
                return Err(WeightsError::NotGguf);
            }
        }
        let alignment = metadata.get("general.alignment").map_or(Some(ALIGNMENT), Value::as_u64);
        let alignment = alignment.filter(|bytes| bytes.is_power_of_two() && *bytes <= MAX_ALIGNMENT);
        let start = reader.position.next_multiple_of(alignment.ok_or(WeightsError::NotGguf)?);
        Ok(Self { metadata, tensors, start })
    }

    /// The tensor that `name`, as it is in safetensors, is called here; its shape, how it is written, and where its
    /// bytes begin in the file.
    ///
    /// # Errors
    /// It is not there, or of a type that is not read.
    pub(super) fn find(&self, name: &str) -> Result<(&[usize], Source, u64), WeightsError> {
        let here = name_here(name).ok_or_else(|| WeightsError::Missing(name.to_owned()))?;
        let place = self.tensors.get(&here).ok_or_else(|| WeightsError::Missing(here.clone()))?;
        let Some(source) = types::source(place.kind) else {
            let (found, instead) = (types::name(place.kind), types::instead(place.kind));
            return Err(WeightsError::Quantization { tensor: here, found, instead });
        };
        let offset = self.start.checked_add(place.offset).ok_or(WeightsError::Incomplete)?;
        Ok((&place.shape, source, offset))
    }
}

/// What llama.cpp calls the tensor that is `name` in safetensors.
fn name_here(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some(String::from("token_embd.weight")),
        "model.norm.weight" => return Some(String::from("output_norm.weight")),
        "lm_head.weight" => return Some(String::from("output.weight")),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.')?;
    let part = match part {
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.{kind}"))
}

/// Reads the header's elements, and knows how far it is.
struct Reader<R> {
    file: io::Take<R>,
    position: u64,
}

impl<R: BufRead> Reader<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], WeightsError> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(cut)?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, WeightsError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, WeightsError> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn skip(&mut self, length: u64) -> Result<(), WeightsError> {
        let mut left = length;
        while left > 0 {
            let there = self.file.fill_buf().map_err(cut)?.len() as u64;
            if there == 0 {
                return Err(WeightsError::Incomplete);
            }
            let now = there.min(left);
            self.file.consume(now as usize);
            left -= now;
        }
        self.position = self.position.saturating_add(length);
        Ok(())
    }

    /// A text; nothing if it is too long to be wanted, or is none.
    fn text(&mut self) -> Result<Option<String>, WeightsError> {
        let length = self.u64()?;
        if length > MAX_KEPT {
            self.skip(length)?;
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes).map_err(cut)?;
        self.position += length;
        Ok(String::from_utf8(bytes).ok())
    }

    /// A value of the type `kind`; nothing if it is not wanted.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Option<Value>, WeightsError> {
        Ok(Some(match kind {
            0 => json!(u8::from_le_bytes(self.bytes()?)),
            1 => json!(i8::from_le_bytes(self.bytes()?)),
            2 => json!(u16::from_le_bytes(self.bytes()?)),
            3 => json!(i16::from_le_bytes(self.bytes()?)),
            4 => json!(self.u32()?),
            5 => json!(i32::from_le_bytes(self.bytes()?)),
            // As it was written in decimals: 1e-6 is more than it in f32.
            6 => json!(f32::from_le_bytes(self.bytes()?).to_string().parse::<f64>().ok()),
            7 => json!(self.bytes::<1>()? != [0]),
            8 => return Ok(self.text()?.map(Value::String)),
            9 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                let depth = depth.checked_sub(1).ok_or(WeightsError::NotGguf)?;
                for _ in 0..count {
                    self.value(kind, depth)?;
                }
                return Ok(None);
            }
            10 => json!(self.u64()?),
            11 => json!(i64::from_le_bytes(self.bytes()?)),
            12 => json!(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(WeightsError::NotGguf),
        }))
    }
}

fn cut(error: io::Error) -> WeightsError {
    if error.kind() == io::ErrorKind::UnexpectedEof { WeightsError::Incomplete } else { error.into() }
}

impl Config {
    /// The shape of the model whose GGUF file begins with `header`.
    ///
    /// # Errors
    /// It is not the header of a Gemma's GGUF file.
    pub fn of_gguf(header: &[u8]) -> Result<Self, ModelError> {
        Header::read(header)?.config()?.with(None)
    }
}
