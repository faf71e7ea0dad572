//! GGUF files on a device: every type that is read, on the emulator.

use std::fs;
use std::path::Path;

use codeseal::engine::{EngineConfig, Event, Sampling};
use codeseal::model::{ModelFiles, Quantize};
use serde::Deserialize;

use crate::engine::{config, namespace, on_emulator, request};
use codeseal_emulator::device::Traits;

/// What numpy makes of the tokens: `tests/vectors/gguf/make.py`.
#[derive(Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    logits: Vec<f64>,
}

#[tokio::test]
async fn likelihoods_are_those_that_numpy_computes() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gguf");
    for name in ["types", "narrow"] {
        let file = |kind| vectors.join(name).with_extension(kind);
        let expected: Expected = serde_json::from_slice(&fs::read(file("json")).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::copy(file("gguf"), dir.path().join("model.gguf")).unwrap();
        let files = ModelFiles::directory(dir.path());
        for has_bf16 in [false, true] {
            let traits = Traits { has_bf16, ..Traits::SOUND };
            let config = EngineConfig { step_tokens: 8, draft_tokens: 0, ..config(1) };
            let (handle, _engine) = on_emulator(&files, Quantize::None, traits, config).unwrap();
            let mut asked = request(&expected.tokens, 1, Sampling::GREEDY, namespace());
            asked.logprobs = Some(5);
            let mut generation = handle.submit(asked).unwrap();
            let mut alternatives = Vec::new();
            while let Some(event) = generation.next().await {
                if let Event::Token(token) = event.unwrap() {
                    alternatives = token.logprobs.unwrap().top.clone();
                }
            }
            let total = expected.logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
            assert_eq!(alternatives.len(), 5);
            for (token, found) in alternatives {
                let expected = expected.logits[token.0 as usize] - total;
                assert!(
                    (f64::from(found) - expected).abs() < 0.1,
                    "{name}, {token:?}: {found} instead of {expected}"
                );
            }
        }
    }
}
