//! Models in GGUF files: written here, and by the `gguf` package.

use super::*;
use codeseal::model::Config;

/// A GGUF file with the members of `config` and `tensors`, each of them of the type `kind`.
fn file(case: &Case, kind: u32, encode: fn(f32) -> Vec<u8>) -> Vec<u8> {
    file_of(case, &case.tensors(), kind, encode)
}

/// As [`file`], with other tensors than those of `case`.
fn file_of(case: &Case, tensors: &Tensors, kind: u32, encode: fn(f32) -> Vec<u8>) -> Vec<u8> {
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
    for (name, (shape, values)) in tensors {
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
    assert!(matches!(load(&huge).err().unwrap().root(), ModelError::Weights(WeightsError::NotGguf)));
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

/// `tests/vectors/gguf/split.py` has split the file with the `gguf` package.
#[test]
fn the_parts_of_a_split_file_are_one_model() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gguf");
    let expected: Expected = serde_json::from_slice(&fs::read(vectors.join("split.json")).unwrap()).unwrap();
    let tokens: Vec<_> = expected.tokens.into_iter().map(TokenId).collect();
    let part = |number: usize| format!("split-{number:05}-of-00003.gguf");
    let dir = tempfile::tempdir().unwrap();
    let copy = |from: usize, to: &str| fs::copy(vectors.join(part(from)), dir.path().join(to)).unwrap();
    for number in 1..=3 {
        copy(number, &part(number));
    }
    // The directory, or any of its parts.
    for path in [dir.path().to_owned(), dir.path().join(part(1)), dir.path().join(part(3))] {
        let logits = Model::load(&path, "split", |_, _| {}).unwrap().sequence().forward(&tokens).unwrap();
        let scale = expected.logits.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
        let difference = largest_difference(&logits, &expected.logits);
        assert!(difference <= 2e-2 * scale, "{difference} of {scale}");
    }
    let refused = |path: &Path| Model::load(path, "split", |_, _| {}).err().unwrap().to_string();

    // A part under the name of another.
    copy(3, &part(2));
    let error = refused(dir.path());
    assert!(error.contains(&part(2)) && error.contains("part 2 of 3"), "{error}");
    // A part that is not there is named.
    fs::remove_file(dir.path().join(part(2))).unwrap();
    for path in [dir.path().to_owned(), dir.path().join(part(1))] {
        assert!(refused(&path).contains(&part(2)), "{}", refused(&path));
    }
    // A part alone, under a name that hides that it is one.
    let alone = tempfile::tempdir().unwrap();
    for number in 1..=3 {
        fs::copy(vectors.join(part(number)), alone.path().join("alone.gguf")).unwrap();
        let error = refused(alone.path());
        assert!(error.contains("alone.gguf") && error.contains(&format!("part {number} of 3")), "{error}");
    }
}

#[test]
fn a_head_in_a_gguf_file_must_equal_the_embedding() {
    let case = Case::read("mqa");
    let embedding = case.tensors()["model.embed_tokens.weight"].clone();
    let with_head = |case: &Case, head: Option<f32>| {
        let mut tensors = case.tensors();
        if let Some(change) = head {
            let mut head = embedding.clone();
            *head.1.last_mut().unwrap() += change;
            tensors.insert(String::from("output.weight"), head);
        }
        load(&file_of(case, &tensors, 0, |value| value.to_le_bytes().to_vec()))
    };
    let tied = with_head(&case, None).unwrap().sequence().forward(&case.tokens).unwrap();
    let copied = with_head(&case, Some(0.0)).unwrap().sequence().forward(&case.tokens).unwrap();
    assert_eq!(tied, copied);
    let error = with_head(&case, Some(0.25)).err().unwrap();
    assert!(matches!(error.root(), ModelError::Weights(WeightsError::OtherHead(_))), "{error}");
    assert!(
        error.to_string().contains("model.gguf") && error.to_string().contains("output.weight"),
        "{error}"
    );

    // A tensor that would be ignored.
    let mut tensors = case.tensors();
    tensors.insert(String::from("rope_freqs.weight"), (vec![16], vec![1.0; 16]));
    let error = load(&file_of(&case, &tensors, 0, |value| value.to_le_bytes().to_vec())).err().unwrap();
    assert!(
        matches!(error.root(), ModelError::Weights(WeightsError::Unused(name)) if name == "rope_freqs.weight")
    );
}
