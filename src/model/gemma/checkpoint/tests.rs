use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

/// Where the directory of a model in each format is, and its files of weights.
fn models(dir: &Path) -> [(PathBuf, Vec<PathBuf>); 3] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let gguf = |name: &str, files: &[&str]| {
        let dir = dir.join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::copy(root.join("models/tiny/tokenizer.json"), dir.join("tokenizer.json")).unwrap();
        let copied = files.iter().map(|file| {
            std::fs::copy(root.join("tests/vectors/gguf").join(file), dir.join(file)).unwrap();
            dir.join(file)
        });
        let copied = copied.collect();
        (dir, copied)
    };
    let parts = ["split-00001-of-00003.gguf", "split-00002-of-00003.gguf", "split-00003-of-00003.gguf"];
    let tiny = root.join("models/tiny");
    let weights = vec![tiny.join("model.safetensors")];
    [(tiny, weights), gguf("one", &["types.gguf"]), gguf("parts", &parts)]
}

/// The bytes of all rows, by the parameter and the row that the first of them is.
fn read(checkpoint: &mut Checkpoint) -> BTreeMap<(String, usize), Vec<u8>> {
    let mut read = BTreeMap::new();
    let fill = |Rows { parameter, first, bytes, .. }: Rows<'_>| {
        let place = (format!("{parameter:?}"), first);
        assert!(read.insert(place, bytes.to_vec()).is_none(), "rows come once");
        Ok(())
    };
    checkpoint.read(fill).unwrap();
    read
}

#[test]
fn an_excerpt_has_the_bytes_of_its_tensors_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    for (path, _) in models(dir.path()) {
        let mut checkpoint = Checkpoint::open(&ModelFiles::at(&path)).unwrap();
        let mut excerpt = checkpoint.first_layers(2).unwrap();
        let all = checkpoint.config().num_layers;
        assert_eq!(excerpt.config().num_layers, all.min(2));
        assert_eq!(excerpt.bytes(), checkpoint.first_layers_bytes(2));
        let mut whole = read(&mut checkpoint);
        whole.retain(|(parameter, _), _| {
            !["2", "3", "4"].iter().any(|layer| parameter.starts_with(&format!("Layer({layer},")))
        });
        let first = read(&mut excerpt);
        assert!(first == whole, "{}", path.display());
        assert!(read(&mut excerpt) == first, "it can be read again");
        // Fewer layers than are asked for.
        assert_eq!(checkpoint.first_layers(all + 7).unwrap().config().num_layers, all);
    }
}

#[test]
fn an_excerpt_has_no_part_in_hashes_and_progress() {
    let dir = tempfile::tempdir().unwrap();
    for (path, weights) in models(dir.path()) {
        let whole: u64 = weights.iter().map(|file| file.metadata().unwrap().len()).sum();
        let files = ModelFiles::at(&path);
        let mut checkpoint = Checkpoint::open(&files).unwrap();
        let opened = files.bytes_read();
        let mut excerpt = checkpoint.first_layers(1).unwrap();
        read(&mut excerpt);
        read(&mut excerpt);
        assert_eq!(files.bytes_read() - opened, excerpt.bytes(), "once, and only these tensors");
        assert!(excerpt.bytes() < whole);
        assert_eq!((files.progress().done, files.progress().total), (0, 0));
        // No file counts as read from end to end.
        let before = files.bytes_read();
        let digest = files.digest().unwrap();
        assert!(files.bytes_read() - before >= whole);
        assert_eq!(digest, ModelFiles::at(&path).digest().unwrap());
        // Hashes are those of the whole files after they are read, too.
        let files = ModelFiles::at(&path);
        let mut checkpoint = Checkpoint::open(&files).unwrap();
        read(&mut checkpoint.first_layers(1).unwrap());
        read(&mut checkpoint);
        assert_eq!(files.progress().done, whole);
        let before = files.bytes_read();
        assert_eq!(files.digest().unwrap(), digest);
        assert!(files.bytes_read() - before < whole, "weights are not read again to hash them");
    }
}
