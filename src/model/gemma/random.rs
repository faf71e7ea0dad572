//! A model of any configuration with random weights, for measuring speed: see `model::files::random`.

use super::super::error::ModelError;
use super::super::files::{ModelFiles, RandomWeights};
use super::config::Config;

/// Random weights for the tensors of `config`.
fn weights(config: &Config) -> Result<RandomWeights, ModelError> {
    let tensors = config.tensors().into_iter().map(|tensor| (tensor.name, tensor.shape));
    RandomWeights::new(tensors).ok_or(ModelError::OutOfBounds("num_hidden_layers"))
}

impl ModelFiles {
    /// Random weights in the shapes that `config`, the content of a `config.json`, describes. There is no tokenizer.
    ///
    /// # Errors
    /// It describes no Gemma.
    pub fn random(config: Vec<u8>) -> Result<Self, ModelError> {
        let weights = weights(&Config::parse(&config)?)?;
        Ok(Self::generated(config, weights))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _, SeekFrom};

    use super::super::super::quantize::Quantize;
    use super::super::model::Model;
    use super::*;
    use crate::token::TokenId;

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
        let mut file = weights(&Config::parse(CONFIG.as_bytes()).unwrap()).unwrap();
        let length = file.seek(SeekFrom::End(0)).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut whole = Vec::new();
        file.read_to_end(&mut whole).unwrap();
        assert_eq!(whole.len() as u64, length);
        for (start, count) in [(0, 8), (3, 900), (131_000, 200)] {
            let mut piece = vec![0; count];
            file.seek(SeekFrom::Start(start as u64)).unwrap();
            file.read_exact(&mut piece).unwrap();
            assert_eq!(piece, whole[start..start + count]);
        }
        assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), length);
        assert_eq!(file.read(&mut [0; 4]).unwrap(), 0);
    }
}
