//! Models in GGUF files: written here, and by the `gguf` package.

use super::*;
use codeseal::model::Config;

/// A GGUF file with the members of `config` and `tensors`, each of them of the type `kind`.
fn file(case: &Case, kind: u32, encode: fn(f32) -> Vec<u8>) -> Vec<u8> {
    let mut header = Vec::new();
    let text = |to: &mut Vec<u8>, text: &str| {
        to.extend((text.len() as u64).to_le_bytes());
        to.extend(text.as_bytes());
    };
    let number = |member: &str| case.config[member].as_u64().unwrap() as u32;
    let members = [
        ("embedding_length", number("hidden_size")),
        ("feed_forward_length", number("intermediate_size")),
        ("block_count", number("num_hidden_layers")),
        ("attention.head_count", number("num_attention_heads")),
        ("attention.head_count_kv", number("num_key_value_heads")),
        ("attention.key_length", number("head_dim")),
        ("context_length", 8192),
    ];
    let tensors = case.tensors();
    header.extend(b"GGUF");
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((members.len() as u64 + 3).to_le_bytes());
    text(&mut header, "general.architecture");
    header.extend(8u32.to_le_bytes());
    text(&mut header, "gemma");
    text(&mut header, "tokenizer.ggml.tokens");
    header.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
    header.extend(2u64.to_le_bytes());
    text(&mut header, "a");
    text(&mut header, &"b".repeat(1000));
    text(&mut header, "gemma.attention.layer_norm_rms_epsilon");
    header.extend([6u32.to_le_bytes(), 1e-6f32.to_le_bytes()].concat());
    for (name, value) in members {
        text(&mut header, &format!("gemma.{name}"));
        header.extend([4u32.to_le_bytes(), value.to_le_bytes()].concat());
    }
    let mut data = Vec::new();
    for (name, (shape, values)) in &tensors {
        let norm = name.contains("norm");
        text(&mut header, &named_here(name));
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&length| header.extend((length as u64).to_le_bytes()));
        header.extend(if norm { 0 } else { kind }.to_le_bytes());
        header.extend((data.len() as u64).to_le_bytes());
        for &value in values {
            data.extend(if norm { (value + 1.0).to_le_bytes().to_vec() } else { encode(value) });
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    [header, data].concat()
}

fn named_here(name: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn load(bytes: &[u8]) -> Result<Model, ModelError> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("model.gguf"), bytes).unwrap();
    Model::load(dir.path(), "gguf", |_, _| {})
}

#[test]
fn a_file_gives_the_very_bits_that_safetensors_give() {
    for name in ["mqa", "mha"] {
        let case = Case::read(name);
        let bytes = file(&case, 0, |value| value.to_le_bytes().to_vec());
        let logits = load(&bytes).unwrap().sequence().forward(&case.tokens).unwrap();
        assert_eq!(logits, case.model().sequence().forward(&case.tokens).unwrap(), "{name}");
        let bytes = file(&case, 30, |value| (value.to_bits() >> 16).to_le_bytes()[..2].to_vec());
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), case.config.to_string()).unwrap();
        let mut tensors = case.tensors();
        for (name, (_, values)) in &mut tensors {
            if !name.contains("norm") {
                values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits() >> 16 << 16));
            }
        }
        write_f32(dir.path(), "model.safetensors", &tensors);
        let exact =
            Model::load(dir.path(), "f32", |_, _| {}).unwrap().sequence().forward(&case.tokens).unwrap();
        let logits = load(&bytes).unwrap().sequence().forward(&case.tokens).unwrap();
        let scale = exact.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
        assert!(largest_difference(&exact, &logits) <= BF16_TOLERANCE * scale, "{name}");
    }
}

#[test]
fn a_broken_file_is_refused() {
    let case = Case::read("mqa");
    let intact = file(&case, 0, |value| value.to_le_bytes().to_vec());
    assert!(load(&intact).is_ok());
    let header = intact.len() - case.tensors().values().map(|(_, values)| 4 * values.len()).sum::<usize>();
    for length in (0..header).step_by(7).chain([intact.len() / 2, intact.len() - 64]) {
        assert!(load(&intact[..length]).is_err(), "cut to {length}");
    }
    // Each byte of the header by itself: whatever it says, nothing breaks.
    for at in 0..header.min(600) {
        let mut bytes = intact[..header].to_vec();
        bytes[at] = !bytes[at];
        drop(Config::of_gguf(&bytes));
    }
    let huge = [&intact[..8], &[0xFF; 16], &intact[24..]].concat();
    assert!(matches!(load(&huge), Err(ModelError::Weights(WeightsError::NotGguf))));
    let error = load(&file(&case, 13, |value| value.to_le_bytes().to_vec())).err().unwrap().to_string();
    assert!(error.contains("Q5_K") && error.contains("Q4_K"), "{error}");
}

#[derive(Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

/// `tests/vectors/gguf/make.py` has written the file with the `gguf` package and computed the logits with numpy.
#[test]
fn a_file_of_every_type_gives_the_logits_that_numpy_computes() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gguf");
    let expected: Expected = serde_json::from_slice(&fs::read(vectors.join("types.json")).unwrap()).unwrap();
    let tokens: Vec<_> = expected.tokens.into_iter().map(TokenId).collect();
    let model = load(&fs::read(vectors.join("types.gguf")).unwrap()).unwrap();
    let config = model.config();
    assert_eq!((config.hidden_size, config.num_heads, config.head_dim), (256, 2, 128));
    let logits = model.sequence().forward(&tokens).unwrap();
    let scale = expected.logits.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
    let difference = largest_difference(&logits, &expected.logits);
    assert!(difference <= 2e-2 * scale, "{difference} of {scale}");
}
