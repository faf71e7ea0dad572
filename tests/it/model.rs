//! The forward pass against the `transformers` library's Gemma, and what happens to files that are not as they should be.

mod candle;
mod files;
mod gguf;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use codeseal::model::{Model, ModelError, ModelFiles, Quantize, TINY_MODEL_NAME, WeightsError};
use codeseal::tokenizer::TokenId;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

/// How far a logit may be from the reference; the largest ones are about 2.
const TOLERANCE: f32 = 1e-4;
/// The same for weights in bf16, relative to the largest logit.
const BF16_TOLERANCE: f32 = 2e-2;
const CASES: [&str; 5] = ["mqa", "mha", "wide", "grouped", "long"];

/// A fixture of `tests/vectors/gemma/make.py`.
struct Case {
    config: Value,
    tokens: Vec<TokenId>,
    /// The logits that follow the token at each position.
    expected: BTreeMap<usize, Vec<f32>>,
}

#[derive(Deserialize)]
struct CaseFile {
    config: Value,
    tokens: Vec<u32>,
    positions: Vec<usize>,
}

/// Tensors by name: shape and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

impl Case {
    fn read(name: &str) -> Self {
        let file: CaseFile =
            serde_json::from_slice(&fs::read(vector(&format!("{name}.json"))).unwrap()).unwrap();
        let bytes = fs::read(vector(&format!("{name}.safetensors"))).unwrap();
        let logits = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let logits = logits.tensor("logits").unwrap();
        let values: Vec<f32> = logits
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        let rows = values.chunks_exact(logits.shape()[1]).map(<[f32]>::to_vec);
        Self {
            config: file.config,
            tokens: file.tokens.into_iter().map(TokenId).collect(),
            expected: file.positions.into_iter().zip(rows).collect(),
        }
    }

    fn model(&self) -> Model {
        let dir = self.directory();
        Model::load(dir.path(), "fixture", |_, _| {}).unwrap()
    }

    /// A directory with the configuration and the weights in one f32 file.
    fn directory(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), self.config.to_string()).unwrap();
        write_f32(dir.path(), "model.safetensors", &self.tensors());
        dir
    }

    /// The weights by the formula in `make.py`.
    fn tensors(&self) -> Tensors {
        let number = |member: &str| self.config[member].as_u64().unwrap() as usize;
        let (hidden, inner) = (number("hidden_size"), number("intermediate_size"));
        let queries = number("num_attention_heads") * number("head_dim");
        let keys = number("num_key_value_heads") * number("head_dim");
        let mut shapes = vec![
            (String::from("model.embed_tokens.weight"), vec![number("vocab_size"), hidden]),
            (String::from("model.norm.weight"), vec![hidden]),
        ];
        for layer in 0..number("num_hidden_layers") {
            for (name, shape) in [
                ("self_attn.q_proj.weight", vec![queries, hidden]),
                ("self_attn.k_proj.weight", vec![keys, hidden]),
                ("self_attn.v_proj.weight", vec![keys, hidden]),
                ("self_attn.o_proj.weight", vec![hidden, queries]),
                ("mlp.gate_proj.weight", vec![inner, hidden]),
                ("mlp.up_proj.weight", vec![inner, hidden]),
                ("mlp.down_proj.weight", vec![hidden, inner]),
                ("input_layernorm.weight", vec![hidden]),
                ("post_attention_layernorm.weight", vec![hidden]),
                ("self_attn.q_proj.bias", vec![queries]),
                ("self_attn.k_proj.bias", vec![keys]),
                ("self_attn.v_proj.bias", vec![keys]),
                ("self_attn.o_proj.bias", vec![hidden]),
            ] {
                if name.ends_with("weight") || self.config["attention_bias"] == true {
                    shapes.push((format!("model.layers.{layer}.{name}"), shape));
                }
            }
        }
        shapes
            .into_iter()
            .map(|(name, shape)| (name.clone(), (shape.clone(), formula(&name, &shape))))
            .collect()
    }
}

fn vector(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gemma").join(file)
}

fn formula(name: &str, shape: &[usize]) -> Vec<f32> {
    let seed = name
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3));
    let scale = match name {
        name if name.contains("embed_tokens") => 0.25,
        name if name.contains("norm") || name.contains("bias") => 1.0,
        _ => 0.5,
    };
    let count: usize = shape.iter().product();
    (0..count as u64)
        .map(|index| ((mix(seed.wrapping_add(index)) >> 40) as f32 / 16_777_216.0 - 0.5) * scale)
        .collect()
}

/// SplitMix64's output function.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

fn write_f32(dir: &Path, file: &str, tensors: &Tensors) {
    write(dir, file, tensors, Dtype::F32, |value| value.to_le_bytes().to_vec());
}

fn write(dir: &Path, file: &str, tensors: &Tensors, dtype: Dtype, encode: impl Fn(f32) -> Vec<u8>) {
    let data: Vec<_> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            (name, shape.clone(), values.iter().flat_map(|&value| encode(value)).collect())
        })
        .collect::<Vec<(_, _, Vec<u8>)>>();
    let views =
        data.iter().map(|(name, shape, data)| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.join(file)).unwrap();
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn reading_a_text_at_once_gives_the_logits_of_transformers() {
    for name in CASES {
        let case = Case::read(name);
        let model = case.model();
        for (&position, expected) in &case.expected {
            let logits = model.sequence().forward(&case.tokens[..=position]).unwrap();
            let difference = largest_difference(&logits, expected);
            assert!(difference <= TOLERANCE, "{name} at {position}: {difference}");
        }
    }
}

#[test]
fn reading_a_text_step_by_step_gives_the_logits_of_transformers() {
    for name in CASES.into_iter().filter(|name| *name != "long") {
        let case = Case::read(name);
        let model = case.model();
        for prompt in [1, 9] {
            let mut sequence = model.sequence();
            let mut logits = sequence.forward(&case.tokens[..prompt]).unwrap();
            for position in prompt - 1..case.tokens.len() {
                if position >= prompt {
                    logits = sequence.forward(&case.tokens[position..=position]).unwrap();
                }
                let difference = largest_difference(&logits, &case.expected[&position]);
                assert!(difference <= TOLERANCE, "{name} at {position} after {prompt}: {difference}");
            }
        }
    }
}

#[test]
fn reading_a_text_in_pieces_gives_the_logits_of_transformers() {
    for name in CASES {
        let case = Case::read(name);
        let mut sequence = case.model().sequence();
        let mut start = 0;
        for (&position, expected) in case.expected.iter().filter(|(position, _)| *position % 3 != 1) {
            let logits = sequence.forward(&case.tokens[start..=position]).unwrap();
            start = position + 1;
            let difference = largest_difference(&logits, expected);
            assert!(difference <= TOLERANCE, "{name} at {position}: {difference}");
        }
    }
}

#[test]
fn a_text_in_pieces_gives_the_very_bits_of_the_whole() {
    let tokens: Vec<_> = (0..150).map(|index| TokenId(100 + index * 7 % 900)).collect();
    for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
        let model = Model::from_files(&ModelFiles::tiny(), TINY_MODEL_NAME, quantize, |_, _| {}).unwrap();
        let whole = model.sequence().forward(&tokens).unwrap();
        for pieces in [1, 2, 7, 33, 100] {
            let mut sequence = model.sequence();
            let mut logits = Vec::new();
            for piece in tokens.chunks(pieces) {
                logits = sequence.forward(piece).unwrap();
            }
            assert!(logits == whole, "{quantize:?} in pieces of {pieces}");
        }
    }
}

#[test]
fn quantised_weights_take_less_memory_and_say_nearly_the_same() {
    let load =
        |quantize| Model::from_files(&ModelFiles::tiny(), TINY_MODEL_NAME, quantize, |_, _| {}).unwrap();
    let full = load(Quantize::None);
    let prompt = [2, 67, 500, 69, 501, 68].map(TokenId);
    let logits = full.sequence().forward(&prompt).unwrap();
    let scale = logits.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
    // Bits of a weight, of which the file has 16.
    for (quantize, bits, tolerance) in [(Quantize::Q8_0, 8.5, 0.03), (Quantize::Q4K, 4.625, 0.3)] {
        let quantised = load(quantize);
        assert_eq!(quantised.bytes_per_token() as f64 * 16.0, full.bytes_per_token() as f64 * bits);
        let difference = largest_difference(&logits, &quantised.sequence().forward(&prompt).unwrap());
        assert!(difference > 0.0 && difference < tolerance * scale, "{quantize:?}: {difference} of {scale}");
    }
}

/// The weights of the embedded model.
fn tiny_tensors() -> Tensors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/model.safetensors");
    let bytes = fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let number = |bits: &[u8]| f32::from_bits(u32::from_le_bytes([0, 0, bits[0], bits[1]]));
    let tensors = file.tensors().into_iter();
    tensors
        .map(|(name, view)| (name, (view.shape().to_vec(), view.data().chunks(2).map(number).collect())))
        .collect()
}

/// The embedded model from a file in f32, with matrices that candle took to `quantize` and back.
fn tiny_in_f32(quantize: Quantize) -> Model {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    let mut tensors = tiny_tensors();
    for (shape, numbers) in tensors.values_mut() {
        if shape.len() == 2 && quantize == Quantize::Q8_0 {
            let tensor = Tensor::from_slice(numbers, shape.clone(), &Device::Cpu).unwrap();
            let tensor =
                QTensor::quantize(&tensor, GgmlDType::Q8_0).unwrap().dequantize(&Device::Cpu).unwrap();
            *numbers = tensor.flatten_all().unwrap().to_vec1().unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny/config.json");
    fs::copy(config, dir.path().join("config.json")).unwrap();
    write_f32(dir.path(), "model.safetensors", &tensors);
    Model::load(dir.path(), TINY_MODEL_NAME, |_, _| {}).unwrap()
}

#[test]
fn rounded_activations_cost_less_than_the_tolerance() {
    let tokens: Vec<_> = (0..150).map(|index| TokenId(100 + index * 7 % 900)).collect();
    for quantize in [Quantize::None, Quantize::Q8_0] {
        // The same weights in f32, so that every product is in f32 too.
        let exact = tiny_in_f32(quantize);
        let model = Model::from_files(&ModelFiles::tiny(), TINY_MODEL_NAME, quantize, |_, _| {}).unwrap();
        for length in [1, 6, 40, 150] {
            let [exact, rounded] =
                [&exact, &model].map(|model| model.sequence().forward(&tokens[..length]).unwrap());
            let scale = exact.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
            let difference = largest_difference(&exact, &rounded);
            assert!(difference <= BF16_TOLERANCE * scale, "{quantize:?} {length}: {difference} of {scale}");
            eprintln!("{quantize:?} {length}: {}", difference / scale);
        }
    }
}

#[test]
fn sequences_share_weights_and_nothing_else() {
    let case = Case::read("mqa");
    let model = case.model();
    let other: Vec<_> = case.tokens.iter().rev().copied().collect();
    let alone = |tokens: &[TokenId]| {
        let mut sequence = model.sequence();
        tokens.iter().map(|&token| sequence.forward(&[token]).unwrap()).collect::<Vec<_>>()
    };
    let (expected, expected_other) = (alone(&case.tokens), alone(&other));
    let (mut sequence, mut other_sequence) = (model.sequence(), model.sequence());
    for (step, (&token, &other_token)) in case.tokens.iter().zip(&other).enumerate() {
        assert_eq!(sequence.forward(&[token]).unwrap(), expected[step]);
        assert_eq!(other_sequence.forward(&[other_token]).unwrap(), expected_other[step]);
    }
}

#[test]
fn tokens_outside_vocabulary_and_context_are_refused() {
    let mut case = Case::read("mqa");
    case.config["max_position_embeddings"] = json!(20);
    let model = case.model();
    assert_eq!(model.context_length(), 20);
    let mut sequence = model.sequence();
    assert!(matches!(sequence.forward(&[]), Err(ModelError::Tokens)));
    assert!(matches!(sequence.forward(&[TokenId(256)]), Err(ModelError::Tokens)));
    assert!(matches!(sequence.forward(&case.tokens[..21]), Err(ModelError::ContextFull)));
    sequence.forward(&case.tokens[..20]).unwrap();
    assert!(matches!(sequence.forward(&case.tokens[20..21]), Err(ModelError::ContextFull)));
}

#[test]
fn several_files_and_their_index_are_one_model() {
    let case = Case::read("grouped");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), case.config.to_string()).unwrap();
    let (mut weight_map, mut shards) = (BTreeMap::new(), BTreeMap::<_, Tensors>::new());
    for (number, (name, tensor)) in case.tensors().into_iter().enumerate() {
        let file = format!("model-0000{}-of-00003.safetensors", number % 3 + 1);
        weight_map.insert(name.clone(), file.clone());
        shards.entry(file).or_default().insert(name, tensor);
    }
    // What the model does not use is not read: old checkpoints carry such tensors.
    let unused = String::from("model.layers.0.self_attn.rotary_emb.inv_freq");
    shards.first_entry().unwrap().get_mut().insert(unused, (vec![3], vec![0.0; 3]));
    for (file, tensors) in &shards {
        write_f32(dir.path(), file, tensors);
    }
    let index = |map: &BTreeMap<String, String>| {
        let content = json!({ "metadata": { "total_size": 0 }, "weight_map": map }).to_string();
        fs::write(dir.path().join("model.safetensors.index.json"), content).unwrap();
        Model::load(dir.path(), "sharded", |_, _| {})
    };
    let logits = index(&weight_map).unwrap().sequence().forward(&case.tokens).unwrap();
    assert_eq!(logits, case.model().sequence().forward(&case.tokens).unwrap());

    // The index is a hint where to look: the files that it names are read as a whole.
    let mut lacking = weight_map.clone();
    lacking.remove("model.norm.weight");
    assert!(index(&lacking).is_ok());
    let mut misplaced = weight_map.clone();
    misplaced.insert(String::from("model.norm.weight"), String::from("model-00001-of-00003.safetensors"));
    assert!(index(&misplaced).is_ok());
    for elsewhere in [
        "../model.safetensors",
        "/model-00001-of-00003.safetensors",
        "model-00004-of-00003.safetensors",
        "model-00001-of-00004.safetensors",
        "other-00001-of-00003.safetensors",
        "weights.bin",
        "config.json",
        "",
    ] {
        let mut wrong = weight_map.clone();
        wrong.insert(String::from("model.norm.weight"), String::from(elsewhere));
        let error = index(&wrong).err().unwrap();
        assert!(
            matches!(error.root(), ModelError::Weights(WeightsError::IndexEntry { file, .. }) if file == elsewhere),
            "{elsewhere}: {error}"
        );
        assert!(error.to_string().starts_with("model.safetensors.index.json: "), "{error}");
    }
}

#[test]
fn half_precision_files_are_read_as_they_are() {
    let case = Case::read("mha");
    let rounded: Tensors = case
        .tensors()
        .into_iter()
        .map(|(name, (shape, values))| {
            // Eight significant bits, which all three types hold exactly.
            (name, (shape, values.into_iter().map(|value| (value * 256.0).round() / 256.0).collect()))
        })
        .collect();
    let logits = |dtype, encode: fn(f32) -> Vec<u8>| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), case.config.to_string()).unwrap();
        write(dir.path(), "model.safetensors", &rounded, dtype, encode);
        Model::load(dir.path(), "half", |_, _| {})
            .map(|model| model.sequence().forward(&case.tokens).unwrap())
    };
    let full = logits(Dtype::F32, |value| value.to_le_bytes().to_vec()).unwrap();
    // Where pairs of bf16 are multiplied by one instruction, activations are rounded to bf16 too.
    let bf16 = logits(Dtype::BF16, |value| (value.to_bits() >> 16).to_le_bytes()[..2].to_vec()).unwrap();
    let scale = full.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
    assert!(largest_difference(&full, &bf16) <= BF16_TOLERANCE * scale);
    assert_eq!(full, logits(Dtype::F16, to_f16).unwrap());
    let integers = logits(Dtype::I32, |value| (value as i32).to_le_bytes().to_vec());
    assert!(matches!(integers.err().unwrap().root(), ModelError::Weights(WeightsError::Type(_))));
}

/// The f16 of a number that is a multiple of 1/256 between -1 and 1.
fn to_f16(value: f32) -> Vec<u8> {
    let bits = value.to_bits();
    let magnitude = if value == 0.0 { 0 } else { ((bits >> 13) & 0x3_FFFF) - ((127 - 15) << 10) };
    ((bits >> 16 & 0x8000 | magnitude) as u16).to_le_bytes().to_vec()
}

#[test]
fn broken_weights_are_refused() {
    let case = Case::read("mqa");
    let dir = case.directory();
    let file = dir.path().join("model.safetensors");
    let intact = fs::read(&file).unwrap();
    let load = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        Model::load(dir.path(), "broken", |_, _| {}).err().map(|error| error.to_string())
    };
    assert_eq!(load(&intact), None);
    for length in [0, 7, 8, 9, 1000, intact.len() / 2, intact.len() - 1] {
        assert!(load(&intact[..length]).is_some(), "cut to {length}");
    }
    assert!(load(&[intact.as_slice(), b"more"].concat()).is_some());
    for header_length in [0, 1 << 20, u64::MAX - 7, u64::MAX] {
        assert!(load(&[&header_length.to_le_bytes(), &intact[8..]].concat()).is_some(), "{header_length}");
    }
    assert!(load(&[&intact[..8], &[0xff; 64], &intact[72..]].concat()).is_some());

    let mut tensors = case.tensors();
    let norm = tensors.remove("model.norm.weight").unwrap();
    write_f32(dir.path(), "model.safetensors", &tensors);
    let missing = Model::load(dir.path(), "broken", |_, _| {});
    assert!(
        matches!(missing, Err(ModelError::Weights(WeightsError::Missing(name))) if name == "model.norm.weight")
    );
    tensors.insert(String::from("model.norm.weight"), (vec![32], norm.1[..32].to_vec()));
    write_f32(dir.path(), "model.safetensors", &tensors);
    let error = Model::load(dir.path(), "broken", |_, _| {}).err().unwrap();
    assert!(
        matches!(error.root(), ModelError::Weights(WeightsError::Shape(name)) if name == "model.norm.weight")
    );
    assert!(error.to_string().starts_with("model.safetensors: "), "{error}");

    fs::remove_file(&file).unwrap();
    let error = Model::load(dir.path(), "broken", |_, _| {}).err().unwrap().to_string();
    assert!(!error.contains(dir.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_configuration_that_the_file_does_not_fill_allocates_nothing() {
    let mut case = Case::read("mqa");
    for member in
        ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
    {
        let original = case.config[member].clone();
        let dir = case.directory();
        case.config[member] = json!(2 * original.as_u64().unwrap());
        fs::write(dir.path().join("config.json"), case.config.to_string()).unwrap();
        let error = Model::load(dir.path(), "huge", |_, _| {}).err().unwrap();
        assert!(matches!(error.root(), ModelError::Weights(_)), "{member}: {error}");
        case.config[member] = original;
    }
}

#[test]
fn progress_runs_from_nothing_to_all() {
    let mut seen = Vec::new();
    let model = Model::from_files(&ModelFiles::tiny(), TINY_MODEL_NAME, Quantize::None, |done, total| {
        seen.push((done, total))
    })
    .unwrap();
    let total = seen.last().unwrap().1;
    assert_eq!((seen.first(), seen.last()), (Some(&(0, total)), Some(&(total, total))));
    assert!(seen.is_sorted() && total > 500_000, "{total}");
    assert_eq!((model.name(), model.context_length()), (TINY_MODEL_NAME, 8192));
}

#[test]
fn the_embedded_model_has_codegemmas_architecture() {
    let model = Model::from_files(&ModelFiles::tiny(), TINY_MODEL_NAME, Quantize::None, |_, _| {}).unwrap();
    let config = model.config();
    assert_eq!((config.head_dim, config.num_kv_heads, config.attention_bias), (256, 1, false));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    let from_disk = Model::load(&dir, TINY_MODEL_NAME, |_, _| {}).unwrap();
    let prompt = [2, 67, 500, 69, 501, 68].map(TokenId);
    assert_eq!(model.sequence().forward(&prompt).unwrap(), from_disk.sequence().forward(&prompt).unwrap());
}
