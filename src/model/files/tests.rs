use std::collections::BTreeSet;

use safetensors::tensor::TensorView;
use serde_json::json;

use super::*;
use crate::model::{Model, Quantize};
use crate::tokenizer::Tokenizer;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn copy(from: &str, to: &Path) {
    std::fs::copy(root().join(from), to).unwrap();
}

/// A small model in one file, with the tokenizer and all that is read.
fn single(dir: &Path) {
    for name in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        copy(&format!("models/tiny/{name}"), &dir.join(name));
    }
}

/// The same in three shards.
fn sharded(dir: &Path) {
    single(dir);
    let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut shards = vec![BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
    let mut weight_map = serde_json::Map::new();
    for (position, (name, view)) in whole.tensors().into_iter().enumerate() {
        let number = position % 3;
        weight_map.insert(name.clone(), json!(format!("model-{:05}-of-00003.safetensors", number + 1)));
        let view = TensorView::new(view.dtype(), view.shape().to_vec(), view.data().to_vec().leak()).unwrap();
        shards[number].insert(name, view);
    }
    for (number, shard) in shards.into_iter().enumerate() {
        let file = dir.join(format!("model-{:05}-of-00003.safetensors", number + 1));
        safetensors::serialize_to_file(shard, None, &file).unwrap();
    }
    let index = json!({ "weight_map": weight_map }).to_string();
    std::fs::write(dir.join("model.safetensors.index.json"), index).unwrap();
}

/// A model in one GGUF file of any name.
fn gguf(dir: &Path) {
    copy("tests/vectors/gguf/types.gguf", &dir.join("types-Q4_K_M.gguf"));
    copy("models/tiny/tokenizer.json", &dir.join("tokenizer.json"));
}

/// The same in parts.
fn gguf_parts(dir: &Path) {
    for number in 1..=3 {
        let name = format!("split-{number:05}-of-00003.gguf");
        copy(&format!("tests/vectors/gguf/{name}"), &dir.join(name));
    }
    copy("models/tiny/tokenizer.json", &dir.join("tokenizer.json"));
}

const KINDS: [fn(&Path); 4] = [single, sharded, gguf, gguf_parts];

#[test]
fn what_the_loader_opens_is_what_the_digest_covers() {
    for (number, make) in KINDS.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        // Files that a repository has and the model is not read from.
        for other in
            ["README.md", "tokenizer_config.json", "special_tokens_map.json", "._model.gguf", "model.onnx"]
        {
            std::fs::write(dir.path().join(other), "other").unwrap();
        }
        let loaded = ModelFiles::at(dir.path());
        Tokenizer::from_files(&loaded).unwrap();
        Model::from_files(&loaded, "test", Quantize::None, |_, _| {}).unwrap();
        let files: BTreeSet<_> = loaded.layout().unwrap().files().clone();
        assert_eq!(loaded.opened(), files, "kind {number}: loaded");

        let hashed = ModelFiles::at(dir.path());
        let before = hashed.digest().unwrap();
        assert_eq!(hashed.opened(), files, "kind {number}: hashed");
        for other in ["README.md", "tokenizer_config.json", "model.onnx"] {
            std::fs::write(dir.path().join(other), "changed").unwrap();
        }
        assert_eq!(ModelFiles::at(dir.path()).digest().unwrap(), before, "kind {number}");
        for name in &files {
            let path = dir.path().join(name.as_str());
            let original = std::fs::read(&path).unwrap();
            for at in [original.len() / 2, original.len() - 1] {
                let mut changed = original.clone();
                changed[at] ^= 1;
                std::fs::write(&path, changed).unwrap();
                assert_ne!(ModelFiles::at(dir.path()).digest().unwrap(), before, "{name} at {at}");
            }
            std::fs::write(&path, original).unwrap();
        }
        assert_eq!(ModelFiles::at(dir.path()).digest().unwrap(), before, "kind {number}");
    }
}

#[test]
fn no_file_outside_the_layout_can_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("model");
    std::fs::create_dir(&inner).unwrap();
    single(&inner);
    std::fs::write(dir.path().join("outside"), "x").unwrap();
    std::fs::write(inner.join("README.md"), "x").unwrap();
    let files = ModelFiles::at(&inner);
    assert!(files.read("config.json", 1024).is_ok());
    for name in ["../outside", "/etc/hostname", "..", ".", "", "config.json/", "README.md", "model.gguf"] {
        assert!(files.read(name, 1024).is_err(), "{name:?}");
    }
    // What appears later is not read either: the digest would not have it.
    std::fs::write(inner.join("model.safetensors.index.json"), "{}").unwrap();
    assert!(files.read("model.safetensors.index.json", 1024).is_err());
}

#[test]
fn a_file_is_read_up_to_its_limit_and_no_further() {
    let files = ModelFiles::embedded(&[("config.json", b"12345"), ("model.safetensors", b"")]);
    assert_eq!(files.read("config.json", 5).unwrap(), b"12345");
    let too_large = files.read("config.json", 4).unwrap_err();
    assert!(matches!(too_large, FilesError::File { problem: FileProblem::TooLarge(4), .. }), "{too_large}");
}

#[test]
fn the_digest_is_of_roles_and_contents() {
    const WEIGHTS: (&str, &[u8]) = ("model.safetensors", b"w");
    let digest = |files| ModelFiles::embedded(files).digest().unwrap();
    let one = digest(&[("config.json", b"1"), ("tokenizer.json", b"2"), WEIGHTS]);
    assert_eq!(one, digest(&[WEIGHTS, ("tokenizer.json", b"2"), ("config.json", b"1"), ("README.md", b"3")]));
    assert_ne!(one, digest(&[("config.json", b"2"), ("tokenizer.json", b"1"), WEIGHTS]));
    assert_ne!(
        one,
        digest(&[("config.json", b"1"), ("tokenizer.json", b"2"), WEIGHTS, ("generation_config.json", b"")])
    );
    // Whatever a GGUF file is called, it is the same model.
    let gguf = |name| digest(Box::leak(Box::new([(name, &b"g"[..]), ("tokenizer.json", &b"2"[..])])));
    assert_eq!(gguf("a.gguf"), gguf("z.gguf"));
    assert_ne!(gguf("a.gguf"), one);
}

#[test]
fn what_is_no_whole_model_has_no_digest() {
    let digest = |files| ModelFiles::embedded(files).digest().unwrap_err().to_string();
    assert!(digest(&[]).contains("no weights"));
    assert!(digest(&[("config.json", b"1"), ("tokenizer.json", b"2")]).contains("no weights"));
    assert!(digest(&[("config.json", b"1"), ("model.safetensors", b"2")]).contains("tokenizer.json"));
    assert!(digest(&[("tokenizer.json", b"1"), ("model.safetensors", b"2")]).contains("config.json"));
    assert!(
        digest(&[("tokenizer.json", b"1"), ("a.gguf", b"2"), ("b.gguf", b"2")]).contains("a.gguf, b.gguf")
    );
    // Five bytes are no GGUF file.
    let dir = tempfile::tempdir().unwrap();
    gguf(dir.path());
    std::fs::write(dir.path().join("types-Q4_K_M.gguf"), "12345").unwrap();
    let error = ModelFiles::at(dir.path()).digest().unwrap_err().to_string();
    assert!(error.contains("types-Q4_K_M.gguf") && error.contains("GGUF"), "{error}");
}

#[test]
fn a_file_that_is_replaced_is_not_read_and_one_that_is_written_to_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    gguf(dir.path());
    let files = ModelFiles::at(dir.path());
    let before = files.digest().unwrap();
    let path = dir.path().join("types-Q4_K_M.gguf");
    let mut other = std::fs::read(&path).unwrap();
    *other.last_mut().unwrap() ^= 1;
    // Another file in its place: the one that was opened goes on being read, by loader and digest alike.
    std::fs::write(dir.path().join("new"), &other).unwrap();
    std::fs::rename(dir.path().join("new"), &path).unwrap();
    let mut now = Vec::new();
    files.open("types-Q4_K_M.gguf").unwrap().read_to_end(&mut now).unwrap();
    assert_ne!(now, other);
    let fresh = ModelFiles::at(dir.path());
    assert_ne!(fresh.digest().unwrap(), before);
    // The same file, written to.
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(100).unwrap();
    let error = fresh.check_unchanged().unwrap_err().to_string();
    assert!(error.contains("types-Q4_K_M.gguf") && error.contains("changed"), "{error}");
    assert!(fresh.digest().is_err());
}
