//! Models in GGUF files: written here, and by the `gguf` package.

use super::*;
use crate::harness::{Process, World, tiny};
use codeseal::model::Config;
use rustix::process::Signal;

/// A value of a GGUF file's metadata.
#[derive(Clone, Copy)]
enum Member {
    U32(u32),
    F32(f32),
}

/// A GGUF file with the members of `config` and `tensors`, each of them of the type `kind`.
fn file(case: &Case, kind: u32, encode: fn(f32) -> Vec<u8>) -> Vec<u8> {
    file_of(case, &case.tensors(), kind, encode)
}

/// As [`file`], with other tensors than those of `case`.
fn file_of(case: &Case, tensors: &Tensors, kind: u32, encode: fn(f32) -> Vec<u8>) -> Vec<u8> {
    write_gguf(&case.config, tensors, &[], kind, encode)
}

/// As [`file`], with `more` members.
fn file_with(case: &Case, more: &[(&str, Member)], kind: u32, encode: fn(f32) -> Vec<u8>) -> Vec<u8> {
    write_gguf(&case.config, &case.tensors(), more, kind, encode)
}

fn write_gguf(
    config: &Value,
    tensors: &Tensors,
    more: &[(&str, Member)],
    kind: u32,
    encode: fn(f32) -> Vec<u8>,
) -> Vec<u8> {
    let mut header = Vec::new();
    let text = |to: &mut Vec<u8>, text: &str| {
        to.extend((text.len() as u64).to_le_bytes());
        to.extend(text.as_bytes());
    };
    let number = |member: &str| config[member].as_u64().unwrap() as u32;
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
    header.extend((members.len() as u64 + more.len() as u64 + 3).to_le_bytes());
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
    for (name, value) in more {
        text(&mut header, name);
        header.extend(match value {
            Member::U32(value) => [4u32.to_le_bytes(), value.to_le_bytes()].concat(),
            Member::F32(value) => [6u32.to_le_bytes(), value.to_le_bytes()].concat(),
        });
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
}

#[test]
fn a_type_that_is_not_read_is_named_with_another_to_take() {
    let case = Case::read("mqa");
    for (kind, name, instead) in [
        (9, "Q8_1", "Q8_0"),
        (16, "IQ2_XXS", "Q2_K"),
        (21, "IQ3_S", "Q3_K_M"),
        (31, "Q4_0_4_4", "Q4_0"),
        (34, "TQ1_0", "Q2_K"),
        (39, "MXFP4", "Q4_K_M"),
        (40, "NVFP4", "Q4_K_M"),
        (4_000_000_000, "number 4000000000", "Q8_0"),
    ] {
        let error = load(&file(&case, kind, |value| value.to_le_bytes().to_vec())).err().unwrap().to_string();
        assert!(error.contains(&format!("type {name},")) && error.contains(instead), "{error}");
        assert!(error.contains("attn_") || error.contains("token_embd") || error.contains("ffn_"), "{error}");
    }
}

/// Loads a GGUF file of `case` with more members, and `config` as `config.json` beside it.
fn load_with(case: &Case, members: &[(&str, Member)], config: Option<&Value>) -> Result<Model, ModelError> {
    let dir = tempfile::tempdir().unwrap();
    let bytes = file_with(case, members, 0, |value| value.to_le_bytes().to_vec());
    fs::write(dir.path().join("model.gguf"), bytes).unwrap();
    if let Some(config) = config {
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    }
    Model::load(dir.path(), "gguf", |_, _| {})
}

#[test]
fn what_the_file_lacks_comes_from_the_configuration_beside_it() {
    let mut case = Case::read("mqa");
    case.config["rope_theta"] = json!(500.0);
    let expected = case.model().sequence().forward(&case.tokens).unwrap();
    let with = load_with(&case, &[], Some(&case.config)).unwrap();
    assert_eq!(with.config().rope_theta, 500.0);
    assert_eq!(with.sequence().forward(&case.tokens).unwrap(), expected);
    // Without it, and with what the file itself says.
    let without = load_with(&case, &[], None).unwrap();
    assert_eq!(without.config().rope_theta, 10_000.0);
    assert_ne!(without.sequence().forward(&case.tokens).unwrap(), expected);
    let own = load_with(&case, &[("gemma.rope.freq_base", Member::F32(500.0))], None).unwrap();
    assert_eq!(own.sequence().forward(&case.tokens).unwrap(), expected);
    // A configuration that says nothing of it contradicts nothing.
    case.config.as_object_mut().unwrap().remove("rope_theta");
    let own = load_with(&case, &[("gemma.rope.freq_base", Member::F32(500.0))], Some(&case.config)).unwrap();
    assert_eq!(own.config().rope_theta, 500.0);
    case.config["rope_parameters"] = json!({"rope_theta": 500.0, "rope_type": "default"});
    let newer =
        load_with(&case, &[("gemma.rope.freq_base", Member::F32(500.0))], Some(&case.config)).unwrap();
    assert_eq!(newer.sequence().forward(&case.tokens).unwrap(), expected);
}

#[test]
fn two_files_that_say_different_things_are_refused_by_the_member() {
    let case = Case::read("mqa");
    let theta = [("gemma.rope.freq_base", Member::F32(500.0))];
    let mut agreed = case.config.clone();
    agreed["rope_theta"] = json!(500.0);
    assert!(load_with(&case, &theta, Some(&agreed)).is_ok());
    for (member, value) in [
        ("rope_theta", json!(10_000.0)),
        ("rms_norm_eps", json!(1e-5)),
        ("max_position_embeddings", json!(4096)),
        ("hidden_size", json!(2 * case.config["hidden_size"].as_u64().unwrap())),
        ("intermediate_size", json!(32)),
        ("num_hidden_layers", json!(7)),
        ("vocab_size", json!(300)),
        ("head_dim", json!(2 * case.config["head_dim"].as_u64().unwrap())),
        ("num_attention_heads", json!(2 * case.config["num_attention_heads"].as_u64().unwrap())),
    ] {
        let mut config = agreed.clone();
        config[member] = value;
        let error = load_with(&case, &theta, Some(&config)).err().unwrap();
        assert!(matches!(error.root(), ModelError::Disagree(named) if *named == member), "{member}: {error}");
    }
    let mut other = agreed;
    other["model_type"] = json!("llama");
    assert!(load_with(&case, &theta, Some(&other)).is_err());
}

#[test]
fn control_tokens_that_the_file_has_elsewhere_are_refused() {
    let case = Case::read("mqa");
    let right = [
        ("tokenizer.ggml.fim_pre_token_id", 67),
        ("tokenizer.ggml.fim_mid_token_id", 68),
        ("tokenizer.ggml.fim_suf_token_id", 69),
        ("tokenizer.ggml.fim_sep_token_id", 70),
        ("tokenizer.ggml.prefix_token_id", 67),
        ("tokenizer.ggml.middle_token_id", 68),
        ("tokenizer.ggml.suffix_token_id", 69),
        ("tokenizer.ggml.eot_token_id", 107),
    ];
    let all = right.map(|(name, id)| (name, Member::U32(id)));
    assert!(load_with(&case, &all, None).is_ok());
    for (name, id) in right {
        let error = load_with(&case, &[(name, Member::U32(id + 4))], None).err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_member_that_changes_what_is_computed_is_refused() {
    let case = Case::read("mqa");
    let head_dim = case.config["head_dim"].as_u64().unwrap() as u32;
    for (name, neutral, other) in [
        ("gemma.attention.value_length", Member::U32(head_dim), Member::U32(head_dim / 2)),
        ("gemma.rope.dimension_count", Member::U32(head_dim), Member::U32(head_dim / 2)),
        ("gemma.rope.scaling.factor", Member::F32(1.0), Member::F32(4.0)),
        ("gemma.attn_logit_softcapping", Member::F32(0.0), Member::F32(50.0)),
        ("gemma.attention.sliding_window", Member::U32(0), Member::U32(4096)),
        ("gemma.expert_count", Member::U32(0), Member::U32(8)),
    ] {
        assert!(load_with(&case, &[(name, neutral)], None).is_ok(), "{name}");
        let error = load_with(&case, &[(name, other)], None).err().unwrap().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_default_that_no_file_confirms_is_told() {
    let case = Case::read("mqa");
    let dir = tempfile::tempdir().unwrap();
    let write = |members: &[(&str, Member)]| {
        let bytes = file_with(&case, members, 0, |value| value.to_le_bytes().to_vec());
        fs::write(dir.path().join("model.gguf"), bytes).unwrap();
        ModelFiles::directory(dir.path()).assumption().unwrap().map(|assumption| assumption.as_str())
    };
    assert_eq!(write(&[]), Some("rope_theta"));
    assert_eq!(write(&[("gemma.rope.freq_base", Member::F32(10_000.0))]), None);
    fs::write(dir.path().join("config.json"), case.config.to_string()).unwrap();
    assert_eq!(write(&[]), None);
}

#[derive(Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gguf")
}

/// `tests/vectors/gguf/make.py` has written the files with the `gguf` package and computed the logits with numpy. In
/// one of them rows are no multiple of 256 long.
#[test]
fn files_of_every_type_give_the_logits_that_numpy_computes() {
    for (name, hidden) in [("types", 256), ("narrow", 96)] {
        let [json, file] =
            ["json", "gguf"].map(|kind| fs::read(vectors().join(name).with_extension(kind)).unwrap());
        let expected: Expected = serde_json::from_slice(&json).unwrap();
        let tokens: Vec<_> = expected.tokens.into_iter().map(TokenId).collect();
        let model = load(&file).unwrap();
        let config = model.config();
        assert_eq!((config.hidden_size, config.num_heads, config.head_dim), (hidden, 1, 256));
        let logits = model.sequence().forward(&tokens).unwrap();
        let scale = expected.logits.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
        let difference = largest_difference(&logits, &expected.logits);
        assert!(difference <= 2e-2 * scale, "{name}: {difference} of {scale}");
        eprintln!("{name}: {}", difference / scale);
    }
}

/// What a converter leaves out is told where it can be mended: in the log of a server that starts without it.
#[tokio::test]
async fn a_server_that_assumes_a_default_logs_it() {
    let (source, dir) = (tiny(), tempfile::tempdir().unwrap());
    let config = serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
    let bytes = write_gguf(&config, &tiny_tensors(), &[], 30, |value| {
        (value.to_bits() >> 16).to_le_bytes()[..2].to_vec()
    });
    fs::write(dir.path().join("model.gguf"), bytes).unwrap();
    fs::copy(source.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let world = World::start().await;
    let mut flags = world.flags();
    let model = flags.iter().position(|flag| flag == "--model").unwrap();
    flags[model + 1] = dir.path().to_str().unwrap().to_owned();
    let process = Process::start(&flags).await;
    process.signal(Signal::TERM);
    let remains = process.remains().await;
    let line =
        remains.stdout.lines().find(|line| line.contains("model_assumption")).expect("the line is logged");
    assert!(line.contains("member=rope_theta") && line.contains("WARN"), "{line}");
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
