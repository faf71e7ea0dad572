//! Checkpoints as trainers, hubs and converters leave them: what loads, and what each refusal says.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn logits(case: &Case, dir: &Path) -> Result<Vec<f32>, ModelError> {
    Model::load(dir, "files", |_, _| {}).map(|model| model.sequence().forward(&case.tokens).unwrap())
}

/// The message that the model at `path` is refused with.
fn refusal(path: &Path) -> String {
    Model::load(path, "files", |_, _| {}).err().unwrap().to_string()
}

/// The embedding with its last number changed by `change`.
fn head(tensors: &Tensors, change: f32) -> (Vec<usize>, Vec<f32>) {
    let mut head = tensors["model.embed_tokens.weight"].clone();
    *head.1.last_mut().unwrap() += change;
    head
}

#[test]
fn a_head_must_equal_the_embedding() {
    let mut case = Case::read("mqa");
    let expected = logits(&case, case.directory().path()).unwrap();
    for tied in [json!(null), json!(true), json!(false)] {
        case.config["tie_word_embeddings"] = tied.clone();
        let dir = case.directory();
        let mut tensors = case.tensors();
        if tied == false {
            let error = logits(&case, dir.path()).unwrap_err();
            assert!(matches!(error.root(), ModelError::Weights(WeightsError::NoHead)), "{error}");
        } else {
            assert_eq!(logits(&case, dir.path()).unwrap(), expected);
        }
        tensors.insert(String::from("lm_head.weight"), head(&tensors, 0.0));
        write_f32(dir.path(), WEIGHTS, &tensors);
        assert_eq!(logits(&case, dir.path()).unwrap(), expected, "{tied}");
        tensors.insert(String::from("lm_head.weight"), head(&tensors, 1e-3));
        write_f32(dir.path(), WEIGHTS, &tensors);
        let error = logits(&case, dir.path()).unwrap_err();
        assert!(matches!(error.root(), ModelError::Weights(WeightsError::OtherHead(_))), "{error}");
        assert!(error.to_string().starts_with("model.safetensors: "), "{error}");
        let mut short = head(&tensors, 0.0);
        short.0[0] -= 1;
        short.1.truncate(short.0.iter().product());
        tensors.insert(String::from("lm_head.weight"), short);
        write_f32(dir.path(), WEIGHTS, &tensors);
        assert!(matches!(
            logits(&case, dir.path()).unwrap_err().root(),
            ModelError::Weights(WeightsError::Shape(_))
        ));
    }
}

#[test]
fn a_head_in_another_shard_and_another_type_is_compared_by_its_numbers() {
    let case = Case::read("mqa");
    let dir = case.directory();
    fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
    let mut tensors = case.tensors();
    for (_, values) in tensors.values_mut() {
        values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits() >> 16 << 16));
    }
    let [first, second] = [1, 2].map(|number| format!("model-0000{number}-of-00002.safetensors"));
    write_f32(dir.path(), &first, &tensors);
    fs::write(dir.path().join(INDEX), json!({ "weight_map": { "lm_head.weight": second } }).to_string())
        .unwrap();
    let bf16 = |value: f32| (value.to_bits() >> 16).to_le_bytes()[..2].to_vec();
    let write_head = |head| {
        let tensors = Tensors::from([(String::from("lm_head.weight"), head)]);
        write(dir.path(), &second, &tensors, Dtype::BF16, bf16);
    };
    write_head(head(&tensors, 0.0));
    logits(&case, dir.path()).unwrap();
    write_head(head(&tensors, 0.25));
    let error = logits(&case, dir.path()).unwrap_err().to_string();
    assert!(error.starts_with(&second), "{error}");
}

#[test]
fn what_trainers_save_loads() {
    let case = Case::read("mha");
    let expected = logits(&case, case.directory().path()).unwrap();
    let check = |what: &str, change: &dyn Fn(&Path, &mut Value, &mut Tensors)| {
        let (dir, mut config, mut tensors) = (case.directory(), case.config.clone(), case.tensors());
        change(dir.path(), &mut config, &mut tensors);
        fs::write(dir.path().join(CONFIG), config.to_string()).unwrap();
        write_f32(dir.path(), WEIGHTS, &tensors);
        match logits(&case, dir.path()) {
            Ok(logits) => assert_eq!(logits, expected, "{what}"),
            Err(error) => panic!("{what}: {error}"),
        }
    };
    let rename = |tensors: &mut Tensors, new: fn(&str) -> String| {
        *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (new(&name), tensor)).collect();
    };
    check("pad and eos of a chat tokenizer", &|_, config, _| {
        config["pad_token_id"] = json!(1);
        config["eos_token_id"] = json!(107);
    });
    check("several ends", &|dir, config, _| {
        config["eos_token_id"] = json!([1, 107]);
        let generation = json!({ "eos_token_id": [1, 107], "pad_token_id": 1, "temperature": 0.5 });
        fs::write(dir.join("generation_config.json"), generation.to_string()).unwrap();
    });
    check("the plain rotary embedding, spelt out", &|_, config, _| {
        config["rope_scaling"] = json!({ "rope_type": "default" });
    });
    check("an index of one file", &|dir, _, tensors| {
        let map: BTreeMap<_, _> = tensors.keys().map(|name| (name, WEIGHTS)).collect();
        fs::write(dir.join(INDEX), json!({ "weight_map": map }).to_string()).unwrap();
    });
    check("names without prefix", &|_, config, tensors| {
        config["architectures"] = json!(["GemmaModel"]);
        rename(tensors, |name| name.strip_prefix("model.").unwrap().to_owned());
    });
    check("names with the prefix twice", &|_, _, tensors| rename(tensors, |name| format!("model.{name}")));
    check("frequencies of old releases", &|_, _, tensors| {
        let name = String::from("model.layers.0.self_attn.rotary_emb.inv_freq");
        tensors.insert(name, (vec![3], vec![0.0; 3]));
    });
}

#[test]
fn no_tensor_is_ignored() {
    let case = Case::read("mqa");
    for name in [
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.9.input_layernorm.weight",
        "base_model.model.model.norm.weight",
        "score.weight",
    ] {
        let dir = case.directory();
        let mut tensors = case.tensors();
        tensors.insert(name.to_owned(), (vec![2], vec![0.0; 2]));
        write_f32(dir.path(), WEIGHTS, &tensors);
        let error = logits(&case, dir.path()).unwrap_err();
        assert!(
            matches!(error.root(), ModelError::Weights(WeightsError::Unused(found)) if found == name),
            "{error}"
        );
    }
    // The same tensor under two names.
    let dir = case.directory();
    let mut tensors = case.tensors();
    let norm = tensors["model.norm.weight"].clone();
    tensors.insert(String::from("norm.weight"), norm);
    write_f32(dir.path(), WEIGHTS, &tensors);
    let error = logits(&case, dir.path()).unwrap_err();
    assert!(matches!(error.root(), ModelError::Weights(WeightsError::Twice(_))), "{error}");
}

#[test]
fn every_refusal_of_a_file_names_it_and_the_next_step() {
    let case = Case::read("mqa");
    let page = b"<!DOCTYPE html><html>log in</html>".as_slice();
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".as_slice();
    let weights = fs::read(case.directory().path().join(WEIGHTS)).unwrap();
    for (file, content, step) in [
        (CONFIG, lfs, "git lfs pull"),
        (WEIGHTS, lfs, "git lfs pull"),
        (CONFIG, page, "accept the model's terms"),
        (WEIGHTS, page, "accept the model's terms"),
        (CONFIG, b"", "download it again"),
        (WEIGHTS, b"", "download it again"),
        (CONFIG, b"\xEF\xBB\xBF{}", "UTF-8"),
        (CONFIG, b"{\"hidden_size\": ", "download it again"),
        (CONFIG, b"[]", "malformed"),
        (WEIGHTS, &weights[..100], "download it again"),
        (WEIGHTS, &weights[..weights.len() - 1], "download it again"),
        (WEIGHTS, b"PK\x03\x04 archive/data.pkl", "safetensors files"),
        (WEIGHTS, b"GGUF\x03\0\0\0\0\0\0\0", ".gguf"),
    ] {
        let dir = case.directory();
        fs::write(dir.path().join(file), content).unwrap();
        let error = refusal(dir.path());
        assert!(error.contains(file) && error.contains(step), "{file} {content:?}: {error}");
        assert!(!error.contains(dir.path().to_str().unwrap()), "{error}");
    }
    let replaced = |file: &str, by: &dyn Fn(&Path)| {
        let dir = case.directory();
        let path = dir.path().join(file);
        drop(fs::remove_file(&path));
        by(&path);
        refusal(dir.path())
    };
    for file in [CONFIG, WEIGHTS] {
        let error = replaced(file, &|path| symlink("../../blobs/gone", path).unwrap());
        assert!(error.contains(file) && error.contains("link") && error.contains("download"), "{error}");
        let error = replaced(file, &|path| fs::create_dir(path).unwrap());
        assert!(error.contains(file) && error.contains("directory"), "{error}");
        // Opening a pipe would wait for ever.
        let error = replaced(file, &|path| {
            assert!(crate::harness::clean("mkfifo").arg(path).status().unwrap().success());
        });
        assert!(error.contains(file) && error.contains("regular file"), "{error}");
    }
    assert!(replaced(CONFIG, &|_| {}).contains(CONFIG));
    let error = replaced(CONFIG, &|path| {
        fs::write(path, json!({ "model_type": "gemma2" }).to_string()).unwrap();
    });
    assert!(error.contains(CONFIG) && error.contains("gemma2") && error.contains("CodeGemma"), "{error}");
}

#[test]
fn a_file_without_permission_is_named() {
    let case = Case::read("mqa");
    let dir = case.directory();
    let path = dir.path().join(WEIGHTS);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // The superuser may read it all the same.
    if fs::File::open(&path).is_err() {
        let error = refusal(dir.path());
        assert!(error.contains(WEIGHTS) && error.contains("permission"), "{error}");
    }
}

#[test]
fn a_shard_that_is_missing_or_cut_is_named() {
    let case = Case::read("mqa");
    let dir = case.directory();
    fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
    fs::write(dir.path().join(INDEX), json!({ "weight_map": {} }).to_string()).unwrap();
    let [first, second] = [1, 2].map(|number| format!("model-0000{number}-of-00002.safetensors"));
    let tensors = case.tensors();
    let half =
        |part: usize| tensors.clone().into_iter().enumerate().filter(move |(number, _)| number % 2 == part);
    write_f32(dir.path(), &first, &half(0).map(|(_, tensor)| tensor).collect());
    assert!(refusal(dir.path()).contains(&second));
    write_f32(dir.path(), &second, &half(1).map(|(_, tensor)| tensor).collect());
    logits(&case, dir.path()).unwrap();
    let intact = fs::read(dir.path().join(&second)).unwrap();
    fs::write(dir.path().join(&second), &intact[..intact.len() - 4]).unwrap();
    assert!(refusal(dir.path()).starts_with(&second), "{}", refusal(dir.path()));
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    assert!(refusal(dir.path()).contains(INDEX));
}

#[test]
fn a_path_that_is_no_model_is_told_what_to_name_instead() {
    let case = Case::read("mqa");
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    let put = |path: &str, content: &[u8]| {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::write(at(path), content).unwrap();
    };
    let says = |path: &str, parts: &[&str]| {
        let error = refusal(&at(path));
        assert!(error.starts_with(at(path).to_str().unwrap()), "{error}");
        for part in parts {
            assert!(error.contains(part), "{path}: {error}");
        }
    };
    says("not/there", &["no such path", at("not").to_str().unwrap()]);
    put("odd/a\u{202e}\u{1b}[2J.bin", b"x");
    let error = refusal(&at("odd"));
    assert!(error.contains(".bin") && !error.contains(['\u{202e}', '\u{1b}']), "{error}");
    symlink("gone", at("link")).unwrap();
    says("link", &["link"]);
    fs::create_dir(at("empty")).unwrap();
    says("empty", &["empty", "download"]);

    // The root of a hub cache, the directory of one repository in it, and its snapshots.
    let snapshot = "hub/models--google--codegemma-2b/snapshots/0123";
    fs::create_dir_all(at(snapshot)).unwrap();
    put("hub/models--google--codegemma-2b/refs/main", b"0123");
    for entry in fs::read_dir(case.directory().path()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), at(snapshot).join(entry.file_name())).unwrap();
    }
    let full = at(snapshot);
    for above in ["hub", "hub/models--google--codegemma-2b", "hub/models--google--codegemma-2b/snapshots"] {
        says(above, &[full.to_str().unwrap(), "name that"]);
    }

    // Formats that are not read.
    put("bin/config.json", b"{}");
    put("bin/pytorch_model-00001-of-00002.bin", b"PK\x03\x04");
    says("bin", &["pytorch_model-00001-of-00002.bin", "safetensors"]);
    put("onnx/model.onnx", b"x");
    says("onnx", &["model.onnx"]);
    put("adapter/adapter_model.safetensors", b"x");
    put("adapter/adapter_config.json", b"{}");
    says("adapter", &["LoRA", "merge_and_unload"]);
    put("other/consolidated.safetensors", b"x");
    says("other", &["consolidated.safetensors", "model.safetensors"]);
    put("half/config.json", b"{}");
    put("half/model.safetensors.incomplete", b"x");
    says("half", &["model.safetensors.incomplete", "not complete"]);

    // Files in place of a directory.
    says(&format!("{snapshot}/model.safetensors"), &["name the directory"]);
    says(&format!("{snapshot}/config.json"), &["name the directory"]);
    for (file, kind) in [("a.bin", "PyTorch"), ("a.pt", "PyTorch"), ("a.onnx", "ONNX"), ("a.zip", "archive")]
    {
        put(file, b"PK\x03\x04");
        says(file, &[kind, ".safetensors", ".gguf"]);
    }
    put("sha256-0123", b"GGUF\x03\0\0\0");
    says("sha256-0123", &["GGUF", ".gguf"]);

    // Several models in one place.
    put("several/a-Q4_K_M.gguf", b"GGUF");
    put("several/b-Q8_0.gguf", b"GGUF");
    let error = refusal(&at("several"));
    assert!(error.contains("a-Q4_K_M.gguf, b-Q8_0.gguf") && error.contains("--model"), "{error}");
    fs::write(at("several").join(WEIGHTS), "x").unwrap();
    assert!(refusal(&at("several")).contains("more than one form"));
}

#[test]
fn a_gguf_file_of_any_name_loads_and_of_another_architecture_does_not() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/gguf/types.gguf");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("Code Gemma (2b) Q4_K_M.gguf");
    fs::copy(vectors, &path).unwrap();
    let load =
        |path: &Path| Model::load(path, "gguf", |_, _| {}).map(|_| ()).map_err(|error| error.to_string());
    load(&path).unwrap();
    load(dir.path()).unwrap();
    // Beside other models it has to be named.
    fs::copy(&path, dir.path().join("other.gguf")).unwrap();
    load(&path).unwrap();
    assert!(load(dir.path()).unwrap_err().contains("several"));
    // The length of "gemma", the text, and a name of the same length.
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|text| text == b"gemma").unwrap();
    fs::write(&path, [&bytes[..at], b"llama", &bytes[at + 5..]].concat()).unwrap();
    let error = load(&path).unwrap_err();
    assert!(
        error.contains("Q4_K_M.gguf") && error.contains("`llama`") && error.contains("CodeGemma"),
        "{error}"
    );
}

#[test]
fn a_tokenizer_that_is_missing_is_named_with_what_is_there_instead() {
    let dir = Case::read("mqa").directory();
    let refused = || codeseal::tokenizer::Tokenizer::load(dir.path()).err().unwrap().to_string();
    assert!(refused().starts_with("tokenizer.json "), "{}", refused());
    fs::write(dir.path().join("tokenizer.model"), "x").unwrap();
    assert!(refused().contains("tokenizer.model is not read"), "{}", refused());
    fs::write(dir.path().join("tokenizer.json"), "version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(refused().contains("git lfs pull"), "{}", refused());
}

/// Each way into the program reads a model in the same way, and so says the same.
#[tokio::test]
async fn server_bench_eval_and_digest_refuse_the_same_with_the_same_words() {
    let world = crate::harness::World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (lfs, cases) = (dir.path().join("lfs"), dir.path().join("cases.jsonl"));
    fs::create_dir(&lfs).unwrap();
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/tiny");
    for name in [CONFIG, "tokenizer.json"] {
        fs::copy(tiny.join(name), lfs.join(name)).unwrap();
    }
    fs::write(lfs.join(WEIGHTS), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        .unwrap();
    let case = json!({ "name": "a", "prefix": "a", "suffix": "b", "middle": "c", "kind": "single" });
    fs::write(&cases, case.to_string()).unwrap();
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for (model, expected) in [(lfs.clone(), "git lfs pull"), (dir.path().join("gone"), "no such path")] {
        let path = model.to_str().unwrap();
        let mut serve = world.flags();
        let at = serve.iter().position(|flag| flag == "--model").unwrap();
        serve[at + 1] = path.to_owned();
        let mut said = Vec::new();
        for flags in [
            text(&["models", "digest", "--model", path]),
            text(&["bench", "--model", path, "--prompt-tokens", "1", "--new-tokens", "1", "--batch", "1"]),
            text(&["eval", "fim", "--model", path, "--cases", cases.to_str().unwrap()]),
            serve,
        ] {
            let remains = crate::harness::run_server(&flags).await;
            assert_eq!(remains.code, Some(70), "{flags:?}: {}", remains.stderr);
            said.extend(remains.stderr.lines().last().map(str::to_owned));
        }
        assert!(said[0].contains(expected), "{}", said[0]);
        assert!(said.iter().all(|line| *line == said[0]), "{said:#?}");
    }
}
