use super::*;

fn names(names: &[&str]) -> BTreeSet<FileName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// The layout of these files beside configuration and tokenizer.
fn layout(more: &[&str]) -> Result<Layout, LayoutError> {
    Layout::of(&names(&[&[CONFIG, TOKENIZER], more].concat()))
}

fn missing(file: &str) -> Result<Layout, LayoutError> {
    Err(LayoutError::Missing { file: FileName(file.to_owned()) })
}

#[test]
fn only_the_names_of_model_files_are_names() {
    for name in [
        CONFIG,
        SINGLE,
        GENERATION,
        "model-00001-of-00002.safetensors",
        "model.gguf",
        "code gemma (2b), Q4_K_M.gguf",
    ] {
        assert_eq!(name.parse::<FileName>().unwrap().as_str(), name);
    }
    let long = format!("{}.gguf", "x".repeat(MAX_NAME_BYTES));
    for name in [
        "",
        "../config.json",
        "README.md",
        "pytorch_model.bin",
        "tokenizer_config.json",
        "consolidated.safetensors",
        "other-00001-of-00002.safetensors",
        "model-1-of-2.safetensors",
        "model-00003-of-00002.safetensors",
        "model-00000-of-00002.safetensors",
        "model-0000+-of-00002.safetensors",
        "x/model.safetensors",
        "../x.gguf",
        "x\\y.gguf",
        "/x.gguf",
        ".gguf",
        "._model.gguf",
        "x\n.gguf",
        "x\u{202e}fugg.gguf",
        long.as_str(),
    ] {
        assert_eq!(name.parse::<FileName>(), Err(NotAModelFile), "{name:?}");
    }
}

#[test]
fn one_file_or_all_shards_are_a_model() {
    let (first, second) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    assert_eq!(layout(&[SINGLE]).unwrap().files(), &names(&[CONFIG, TOKENIZER, SINGLE]));
    // An index of one file, which some converters write.
    assert_eq!(layout(&[SINGLE, INDEX]).unwrap().files(), &names(&[CONFIG, TOKENIZER, SINGLE, INDEX]));
    let all = [first, second, INDEX, GENERATION];
    assert_eq!(layout(&all).unwrap().files().len(), 6);
    assert_eq!(layout(&[]), Err(LayoutError::NoWeights));
    assert_eq!(layout(&[INDEX]), Err(LayoutError::NoShards));
    assert_eq!(layout(&[first, second]), missing(INDEX));
    assert_eq!(layout(&[first, INDEX]), missing(second));
    for two in [&[SINGLE, first, second, INDEX][..], &[first, "model-00002-of-00003.safetensors", INDEX]] {
        assert!(matches!(layout(two), Err(LayoutError::TwoModels(_))), "{two:?}");
    }
    assert_eq!(Layout::of(&names(&[SINGLE])), missing(CONFIG));
}

#[test]
fn a_gguf_file_of_any_name_or_all_parts_of_one_are_a_model() {
    let (first, second) = ("b-Q4_0-00001-of-00002.gguf", "b-Q4_0-00002-of-00002.gguf");
    assert_eq!(layout(&["b.gguf"]).unwrap().files(), &names(&[CONFIG, TOKENIZER, "b.gguf"]));
    assert_eq!(Layout::of(&names(&["b.gguf"])).unwrap().files(), &names(&["b.gguf"]));
    let WeightFiles::Gguf(parts) = layout(&[first, second]).unwrap().weights else { unreachable!() };
    assert_eq!(parts.iter().map(FileName::as_str).collect::<Vec<_>>(), [first, second]);
    assert_eq!(layout(&[second]), missing(first));
    assert_eq!(layout(&["a.gguf", "b.gguf"]), Err(LayoutError::SeveralGguf("a.gguf, b.gguf".to_owned())));
    for several in [&[first, second, "c.gguf"][..], &[first, "c-Q4_0-00002-of-00002.gguf"]] {
        assert!(matches!(layout(several), Err(LayoutError::SeveralGguf(_))), "{several:?}");
    }
    assert!(matches!(layout(&["b.gguf", SINGLE]), Err(LayoutError::TwoModels(_))));
}

#[test]
fn a_gguf_file_that_is_named_is_chosen_among_all_others() {
    let all = names(&["a.gguf", "b-00001-of-00002.gguf", "b-00002-of-00002.gguf", SINGLE, INDEX, TOKENIZER]);
    let chosen = |name: &str| Layout::of_gguf(&all, &name.parse().unwrap()).unwrap();
    assert_eq!(chosen("a.gguf").files(), &names(&["a.gguf", TOKENIZER]));
    assert_eq!(chosen("b-00001-of-00002.gguf"), chosen("b-00002-of-00002.gguf"));
    assert_eq!(chosen("b-00002-of-00002.gguf").files().len(), 3);
}
