//! Random weights: a safetensors file that is generated while it is read.
//!
//! For measuring speed, which depends on shapes and hardly on values.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

/// How many numbers are drawn; then they repeat. A prime, so that no two rows of a matrix begin at the same one.
const DRAWN: usize = 65_521;
/// The largest of them, about that of a trained model.
const LARGEST: f32 = 0.04;

/// A safetensors file of bf16 numbers.
#[derive(Clone, Debug)]
pub(in crate::model) struct RandomWeights {
    /// Its length in eight bytes, and the header.
    head: Arc<[u8]>,
    /// Two bytes each.
    drawn: Arc<[u8]>,
    length: u64,
    position: u64,
}

impl RandomWeights {
    /// A file of `tensors`, which are names and shapes.
    /// None if their sizes overflow.
    pub(in crate::model) fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Option<Self> {
        let mut end = 0;
        let infos = tensors.into_iter().map(|(name, shape)| {
            let start = end;
            end += 2 * shape.iter().product::<usize>();
            (name, TensorInfo { dtype: Dtype::BF16, shape, data_offsets: (start, end) })
        });
        let infos: Vec<_> = infos.collect();
        let metadata = Metadata::new(None::<HashMap<String, String>>, infos).ok()?;
        let mut header = serde_json::to_vec(&metadata).ok()?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let head = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        let length = (head.len() + end) as u64;
        Some(Self { head: head.into(), drawn: draw().into(), length, position: 0 })
    }
}

/// Uniform numbers as bf16.
fn draw() -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let number = || {
        state = state.wrapping_mul(0xD120_2E7A_29A5_B1F5).wrapping_add(1);
        let uniform = ((state >> 40) as f32 / 8_388_608.0 - 1.0) * LARGEST;
        ((uniform.to_bits() >> 16) as u16).to_le_bytes()
    };
    std::iter::repeat_with(number).take(DRAWN).flatten().collect()
}

impl Read for RandomWeights {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let head = self.head.len() as u64;
        let (bytes, at, left) = if self.position < head {
            (&self.head, self.position, head - self.position)
        } else {
            let at = (self.position - head) % self.drawn.len() as u64;
            (&self.drawn, at, self.length.saturating_sub(self.position))
        };
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let from = bytes.get(at as usize..).unwrap_or_default();
        let count = most.min(from.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..count), from.get(..count)) {
            to.copy_from_slice(from);
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for RandomWeights {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
