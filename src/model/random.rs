//! Weights that are drawn where they are read: a file of a model's true shape that is on no disk.
//!
//! For measuring speed, which depends on the shape and hardly on the numbers.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::ModelError;
use super::config::Config;

/// How many numbers are drawn. A prime, so that no two rows of a matrix begin at the same one.
const DRAWN: usize = 65_521;
/// The largest of them: as small as those of a trained model.
const LARGEST: f32 = 0.04;

/// A safetensors file of bf16 numbers.
#[derive(Clone, Debug)]
pub(super) struct RandomWeights {
    /// Its length in eight bytes, and the header.
    head: Arc<[u8]>,
    /// Two bytes each.
    drawn: Arc<[u8]>,
    length: u64,
    position: u64,
}

impl RandomWeights {
    /// All that a model of `config` consists of.
    pub(super) fn new(config: &Config) -> Result<Self, ModelError> {
        let mut end = 0;
        let infos = config.tensors().into_iter().map(|tensor| {
            let start = end;
            end += 2 * tensor.shape.iter().product::<usize>();
            (tensor.name, TensorInfo { dtype: Dtype::BF16, shape: tensor.shape, data_offsets: (start, end) })
        });
        let infos: Vec<_> = infos.collect();
        let metadata = Metadata::new(None::<HashMap<String, String>>, infos)
            .map_err(|_| ModelError::OutOfBounds("num_hidden_layers"))?;
        let mut header = serde_json::to_vec(&metadata).map_err(ModelError::MalformedConfig)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let head = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
        let length = (head.len() + end) as u64;
        Ok(Self { head: head.into(), drawn: draw().into(), length, position: 0 })
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

#[cfg(test)]
mod tests {
    use super::super::{Model, ModelFiles, Quantize};
    use super::*;
    use crate::tokenizer::TokenId;

    const CONFIG: &str = r#"{"model_type": "gemma", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}"#;

    #[test]
    fn a_model_of_drawn_weights_computes_and_is_the_same_every_time() {
        let logits = |quantize| {
            let files = ModelFiles::random(CONFIG.as_bytes().to_vec()).unwrap();
            let model = Model::from_files(&files, "random", quantize, |_, _| {}).unwrap();
            model.sequence().forward(&[TokenId(7), TokenId(8)]).unwrap()
        };
        let first = logits(Quantize::None);
        assert_eq!(first.len(), 300);
        assert!(first.iter().all(|logit| logit.is_finite()));
        assert!(first.iter().any(|logit| *logit != first[0]), "all tokens are alike");
        assert_eq!(first, logits(Quantize::None));
        assert_eq!(logits(Quantize::Q8_0).len(), 300);
    }

    #[test]
    fn any_piece_read_is_what_the_whole_has_there() {
        let mut file = RandomWeights::new(&Config::parse(CONFIG.as_bytes()).unwrap()).unwrap();
        let mut whole = Vec::new();
        file.read_to_end(&mut whole).unwrap();
        assert_eq!(whole.len() as u64, file.length);
        for (start, length) in [(0, 8), (3, 900), (131_000, 200)] {
            let mut piece = vec![0; length];
            file.seek(SeekFrom::Start(start as u64)).unwrap();
            file.read_exact(&mut piece).unwrap();
            assert_eq!(piece, whole[start..start + length]);
        }
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), file.length);
        assert_eq!(file.read(&mut [0; 4]).unwrap(), 0);
    }
}
