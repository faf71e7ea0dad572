//! Files of weights: what their headers say of the tensors in them.
//!
//! A header is parsed once, when its file is opened. Nothing is allocated by a number of a header before the file has been
//! seen to be long enough.

pub(super) mod gguf;
mod safetensors;

use std::io::{Cursor, Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use codeseal_kernels::cpu::Source;

use super::error::{ModelError, WeightsError};
use super::files::{ModelFiles, ReadSeek};
use super::layout::{FileName, WeightFiles};

/// An open file of weights, and its header.
pub(super) struct Shard {
    name: FileName,
    file: Box<dyn ReadSeek>,
    file_bytes: u64,
    header: Arc<Header>,
}

/// What a file says before its weights begin.
enum Header {
    Safetensors(safetensors::Header),
    Gguf(gguf::Header),
}

/// Where a tensor is in its file, in bytes, and its type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) source: Source,
    pub(super) offset: u64,
    pub(super) length: usize,
}

impl Shard {
    /// Opens all files of weights of a model.
    ///
    /// # Errors
    /// A file is missing, cannot be read, or is malformed.
    pub(super) fn open_all(files: &ModelFiles) -> Result<Vec<Self>, ModelError> {
        let weights = files.layout()?.weights();
        safetensors::check_index(files)?;
        let gguf = matches!(weights, WeightFiles::Gguf(_));
        let open = |name: &FileName| -> Result<Self, ModelError> {
            let mut file = files.open(name.as_str())?;
            let wrong = ModelError::in_file(name.as_str());
            let file_bytes = file.seek(SeekFrom::End(0)).map_err(WeightsError::Read).map_err(&wrong)?;
            let header = Arc::new(Header::read(&mut *file, file_bytes, gguf).map_err(wrong)?);
            Ok(Self { name: name.clone(), file, file_bytes, header })
        };
        weights.names().iter().map(open).collect()
    }

    /// The same header, with `content` in place of the file's bytes. Offsets in the header do not apply to it.
    pub(super) fn with_content(&self, content: Vec<u8>) -> Self {
        Self {
            name: self.name.clone(),
            file_bytes: content.len() as u64,
            file: Box::new(Cursor::new(content)),
            header: Arc::clone(&self.header),
        }
    }

    /// The file's name.
    pub(super) fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The name of the file, its bytes, and how many these are.
    pub(super) fn file(&mut self) -> (&FileName, &mut dyn ReadSeek, u64) {
        (&self.name, &mut *self.file, self.file_bytes)
    }

    /// Its header, if it is a GGUF file.
    pub(super) fn gguf(&self) -> Option<&gguf::Header> {
        match &*self.header {
            Header::Gguf(header) => Some(header),
            Header::Safetensors(_) => None,
        }
    }

    /// The names of its tensors, in order.
    pub(super) fn tensors(&self) -> Vec<String> {
        let mut names: Vec<_> = match &*self.header {
            Header::Safetensors(header) => header.names(),
            Header::Gguf(header) => header.names().map(str::to_owned).collect(),
        };
        names.sort();
        names
    }

    /// Where the tensor `own_name` is, which must have this shape. Errors call it `name`.
    ///
    /// # Errors
    /// It is of another shape or of a type that is not read, or the file ends before it does.
    pub(super) fn find(&self, own_name: &str, name: &str, shape: &[usize]) -> Result<Extent, WeightsError> {
        match &*self.header {
            Header::Safetensors(header) => header.find(own_name, name, shape),
            Header::Gguf(header) => {
                let (found, source, offset) = header.find(own_name)?;
                // A row is whole blocks, and a vector's rows are single numbers.
                let row = source.bytes(shape.get(1).copied().unwrap_or(1));
                let (true, Some(row)) = (found == shape, row) else {
                    return Err(WeightsError::Shape(name.to_owned()));
                };
                let rows = shape.first().copied().unwrap_or(1);
                let length = row.checked_mul(rows).ok_or(WeightsError::Incomplete)?;
                let end = offset.checked_add(length as u64);
                if end.is_none_or(|end| end > self.file_bytes) {
                    return Err(WeightsError::Incomplete);
                }
                Ok(Extent { source, offset, length })
            }
        }
    }

    /// Fills `bytes` with those at `offset`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<(), ModelError> {
        let read = self.file.seek(SeekFrom::Start(offset)).and_then(|_| self.file.read_exact(bytes));
        read.map_err(|error| ModelError::in_file(self.name.as_str())(WeightsError::Read(error)))
    }
}

impl Header {
    fn read(file: &mut dyn ReadSeek, file_bytes: u64, gguf: bool) -> Result<Self, WeightsError> {
        file.rewind()?;
        if gguf {
            return Ok(Self::Gguf(gguf::Header::read(std::io::BufReader::new(file))?));
        }
        Ok(Self::Safetensors(safetensors::Header::read(file, file_bytes)?))
    }
}
