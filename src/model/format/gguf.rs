//! The header of a GGUF file: what llama.cpp reads, as the `gguf` package writes it. Versions 2 and 3, little endian.
//!
//! The file is untrusted, so nothing is allocated by a number in it before as many bytes have been read.

mod parts;
mod types;

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read};

use serde_json::{Value, json};

use codeseal_kernels::cpu::Source;

pub(in crate::model) use self::parts::check_parts;
use super::super::error::WeightsError;

/// The first bytes of every such file.
const MAGIC: [u8; 4] = *b"GGUF";
/// The longest header that is read, in bytes: a vocabulary of 256,000 with its merges takes about 15 MB.
const MAX_HEADER_BYTES: u64 = 128 << 20;
/// The most members and the most tensors; CodeGemma 7B has 254.
const MAX_ENTRIES: u64 = 1 << 16;
/// The longest name or text that is kept, in bytes; longer ones are skipped.
const MAX_KEPT: u64 = 256;
/// The maximum depth of nested arrays.
const MAX_DEPTH: u32 = 4;
/// Dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// The default alignment of tensors.
const ALIGNMENT: u64 = 32;
/// The largest alignment that a file may ask for.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// The metadata and the list of tensors of a GGUF file.
pub(in crate::model) struct Header {
    /// Numbers and short texts by name. Everything else, a vocabulary for instance, is skipped.
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
    /// Where the tensors begin, in bytes.
    start: u64,
}

/// A tensor of the file.
struct TensorInfo {
    /// Rows first, as everywhere else.
    shape: Vec<usize>,
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
    pub(in crate::model) fn read(file: impl BufRead) -> Result<Self, WeightsError> {
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
            if tensors.insert(name, TensorInfo { shape, kind, offset }).is_some() {
                return Err(WeightsError::NotGguf);
            }
        }
        let alignment = metadata.get("general.alignment").map_or(Some(ALIGNMENT), Value::as_u64);
        let alignment = alignment.filter(|bytes| bytes.is_power_of_two() && *bytes <= MAX_ALIGNMENT);
        let start = reader.position.next_multiple_of(alignment.ok_or(WeightsError::NotGguf)?);
        Ok(Self { metadata, tensors, start })
    }

    /// The metadata `name`: a number or a short text.
    pub(in crate::model) fn get(&self, name: &str) -> Option<&Value> {
        self.metadata.get(name)
    }

    /// The names of the tensors.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of the tensor `name`, rows first.
    pub(in crate::model) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|tensor| tensor.shape.as_slice())
    }

    /// The shape of the tensor `name`, its type, and where it begins in the file, in bytes.
    ///
    /// # Errors
    /// It is not there, or of a type that is not read.
    pub(super) fn find(&self, name: &str) -> Result<(&[usize], Source, u64), WeightsError> {
        let tensor = self.tensors.get(name).ok_or_else(|| WeightsError::Missing(name.to_owned()))?;
        let Some(source) = types::source(tensor.kind) else {
            let (found, instead) = (types::name(tensor.kind), types::instead(tensor.kind));
            return Err(WeightsError::Quantization { tensor: name.to_owned(), found, instead });
        };
        let offset = self.start.checked_add(tensor.offset).ok_or(WeightsError::Incomplete)?;
        Ok((&tensor.shape, source, offset))
    }
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

    /// A text; none if it is longer than what is kept, or not UTF-8.
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

    /// A value of the type `kind`; none if it is not kept.
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
                self.skip_array(kind, count, depth)?;
                return Ok(None);
            }
            10 => json!(self.u64()?),
            11 => json!(i64::from_le_bytes(self.bytes()?)),
            12 => json!(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(WeightsError::NotGguf),
        }))
    }

    /// Skips an array: one of 256,000 scores or tokens takes longer to read than all other members.
    fn skip_array(&mut self, kind: u32, count: u64, depth: u32) -> Result<(), WeightsError> {
        let depth = depth.checked_sub(1).ok_or(WeightsError::NotGguf)?;
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..count {
                    let length = self.u64()?;
                    self.skip(length)?;
                }
                return Ok(());
            }
            9 => {
                for _ in 0..count {
                    let (kind, count) = (self.u32()?, self.u64()?);
                    self.skip_array(kind, count, depth)?;
                }
                return Ok(());
            }
            _ => return Err(WeightsError::NotGguf),
        };
        self.skip(count.checked_mul(width).ok_or(WeightsError::Incomplete)?)
    }
}

fn cut(error: io::Error) -> WeightsError {
    if error.kind() == io::ErrorKind::UnexpectedEof { WeightsError::Incomplete } else { error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header with one array, whose type, count and elements are `array`, and one number behind it.
    fn header(array: &[u8]) -> Vec<u8> {
        let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        let counts = [0u64, 2].map(u64::to_le_bytes).concat();
        let start = [&MAGIC[..], &3u32.to_le_bytes(), &counts].concat();
        let member = |name: &str, kind: u32| [text(name), kind.to_le_bytes().to_vec()].concat();
        [start, member("array", 9), array.to_vec(), member("behind", 4), 77u32.to_le_bytes().to_vec()]
            .concat()
    }

    /// The type of an array's elements, and how many there are.
    fn of(kind: u32, count: u64) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat()
    }

    fn behind(array: &[u8]) -> Result<Option<u64>, WeightsError> {
        Ok(Header::read(header(array).as_slice())?.get("behind").and_then(Value::as_u64))
    }

    #[test]
    fn arrays_of_every_type_are_skipped() {
        let widths = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
        for (kind, width) in widths.into_iter().enumerate().filter(|(_, width)| *width > 0) {
            for count in [0, 1, 7, 50_000] {
                let array = [of(kind as u32, count as u64), vec![0xA5; count * width]].concat();
                assert_eq!(behind(&array).unwrap(), Some(77), "{kind} {count}");
            }
        }
        let texts = [
            of(8, 3),
            [0u64, 2, 300]
                .map(|length| [length.to_le_bytes().to_vec(), vec![b'x'; length as usize]].concat())
                .concat(),
        ];
        assert_eq!(behind(&texts.concat()).unwrap(), Some(77));
        let nested = [of(9, 3), of(4, 2), vec![1; 8], of(8, 0), of(9, 1), of(0, 1), vec![1]].concat();
        assert_eq!(behind(&nested).unwrap(), Some(77));
    }

    #[test]
    fn arrays_that_cannot_be_skipped_are_errors() {
        for count in [3, u64::from(u32::MAX), u64::MAX] {
            for kind in [0, 4, 8, 12] {
                let error = behind(&of(kind, count)).unwrap_err();
                assert!(matches!(error, WeightsError::Incomplete), "{kind} {count}: {error}");
            }
        }
        assert!(matches!(behind(&of(13, 1)), Err(WeightsError::NotGguf)));
        let deep = std::iter::repeat_n(of(9, 1), 6).chain([of(4, 0)]).collect::<Vec<_>>().concat();
        assert!(matches!(behind(&deep), Err(WeightsError::NotGguf)));
    }
}
