//! The candle backend against `transformers` and against the kernels.

use codeseal::model::{CandleModel, Model, ModelError, ModelFiles, Place, Quantize, TINY_MODEL_NAME};
use codeseal::tokenizer::TokenId;
use serde_json::json;

use super::{CASES, Case, TOLERANCE, largest_difference, tiny_in_f32, tiny_tensors, write_f32};

fn candle(case: &Case) -> CandleModel {
    let dir = case.directory();
    let files = ModelFiles::directory(dir.path());
    CandleModel::from_files(&files, "fixture", Quantize::None, Place::cpu().unwrap(), |_, _| {}).unwrap()
}

/// The kernels' logits after `tokens`, with the weights of `case` in f32.
fn kernels(case: &Case, tokens: &[TokenId]) -> Vec<f32> {
    case.model().sequence().forward(tokens).unwrap()
}

#[test]
fn its_logits_are_those_of_transformers_and_of_the_kernels() {
    for name in CASES {
        let case = Case::read(name);
        let model = candle(&case);
        assert_eq!(model.weights_types(), "f32");
        for (&position, expected) in case.expected.iter().filter(|(position, _)| *position % 4 != 1) {
            let tokens = &case.tokens[..=position];
            let logits = model.sequence(tokens.len()).unwrap().forward(tokens).unwrap();
            for (whose, expected) in [("transformers", expected), ("the kernels", &kernels(&case, tokens))] {
                let difference = largest_difference(&logits, expected);
                assert!(difference <= TOLERANCE, "{name} at {position}, {whose}: {difference}");
            }
        }
    }
}

#[test]
fn a_text_in_pieces_gives_the_very_bits_of_the_whole() {
    for name in CASES {
        let case = Case::read(name);
        let model = candle(&case);
        let whole = model.sequence(case.tokens.len()).unwrap().forward(&case.tokens).unwrap();
        for pieces in [1, 2, 7, 300] {
            if pieces < 7 && name == "long" {
                continue;
            }
            let mut sequence = model.sequence(case.tokens.len()).unwrap();
            let mut logits = Vec::new();
            for piece in case.tokens.chunks(pieces) {
                logits = sequence.forward(piece).unwrap();
            }
            assert!(logits == whole, "{name} in pieces of {pieces}");
        }
    }
}

#[test]
fn bf16_weights_are_multiplied_in_f32() {
    let tokens: Vec<_> = (0..150).map(|index| TokenId(100 + index * 7 % 900)).collect();
    let load = |quantize| {
        CandleModel::from_files(
            &ModelFiles::tiny(),
            TINY_MODEL_NAME,
            quantize,
            Place::cpu().unwrap(),
            |_, _| {},
        )
        .unwrap()
    };
    let model = load(Quantize::None);
    assert_eq!((model.name(), model.weights_types().as_str()), (TINY_MODEL_NAME, "f32"));
    let exact = tiny_in_f32(Quantize::None).sequence().forward(&tokens).unwrap();
    let found = model.sequence(150).unwrap().forward(&tokens).unwrap();
    let scale = exact.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
    let difference = largest_difference(&found, &exact);
    assert!(difference <= TOLERANCE * scale.max(1.0), "{difference} of {scale}");
    // Bits of a weight, of which the dense model has 32.
    for (quantize, bits) in [(Quantize::Q8_0, 8.5), (Quantize::Q4K, 4.5)] {
        let quantized = load(quantize);
        assert_eq!(quantized.weights_types(), quantize.as_str());
        assert_eq!(quantized.bytes_per_token() as f64 * 32.0, model.bytes_per_token() as f64 * bits);
    }
}

#[test]
fn blocks_of_a_gguf_file_are_multiplied_as_they_are() {
    for name in ["types", "split-00001-of-00003", "narrow"] {
        let path = super::vector(&format!("../gguf/{name}.gguf"));
        let tokens = [2, 5, 9, 17, 33, 40].map(TokenId);
        let files = ModelFiles::at(&path);
        let model = CandleModel::from_files(&files, "gguf", Quantize::None, Place::cpu().unwrap(), |_, _| {})
            .unwrap();
        let found = model.sequence(6).unwrap().forward(&tokens).unwrap();
        let expected = Model::load(&path, "gguf", |_, _| {}).unwrap().sequence().forward(&tokens).unwrap();
        let scale = expected.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
        let difference = largest_difference(&found, &expected);
        assert!(difference <= super::BF16_TOLERANCE * 2.0 * scale, "{name}: {difference} of {scale}");
    }
}

#[test]
fn tokens_outside_vocabulary_room_and_context_are_refused() {
    let mut case = Case::read("mqa");
    case.config["max_position_embeddings"] = json!(20);
    let model = candle(&case);
    let mut sequence = model.sequence(20).unwrap();
    assert!(matches!(sequence.forward(&[]), Err(ModelError::Tokens)));
    assert!(matches!(sequence.forward(&[TokenId(256)]), Err(ModelError::Tokens)));
    assert!(matches!(sequence.forward(&case.tokens[..21]), Err(ModelError::ContextFull)));
    sequence.forward(&case.tokens[..20]).unwrap();
    assert!(matches!(sequence.forward(&case.tokens[20..21]), Err(ModelError::ContextFull)));
    assert!(matches!(model.sequence(0).unwrap().forward(&case.tokens[..1]), Err(ModelError::ContextFull)));
}

/// Weights so large that their products exceed f16 are finite in f32, as in `transformers`.
#[test]
fn large_weights_stay_finite() {
    let mut tensors = tiny_tensors();
    for (name, (_, numbers)) in &mut tensors {
        if name.contains("mlp") {
            numbers.iter_mut().for_each(|number| *number *= 300.0);
        }
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(crate::harness::tiny().join("config.json"), dir.path().join("config.json")).unwrap();
    write_f32(dir.path(), "model.safetensors", &tensors);
    let files = ModelFiles::directory(dir.path());
    let model =
        CandleModel::from_files(&files, "large", Quantize::None, Place::cpu().unwrap(), |_, _| {}).unwrap();
    let logits = model.sequence(3).unwrap().forward(&[2, 500, 501].map(TokenId)).unwrap();
    assert!(logits.iter().all(|logit| logit.is_finite()));
}
