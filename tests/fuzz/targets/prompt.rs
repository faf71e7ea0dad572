//! No text becomes a control token, whatever it holds, and every text survives encoding.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use codeseal::prompt::{control, infill};
use codeseal::tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();

fuzz_target!(|texts: (&str, &str)| {
    let (prefix, suffix) = texts;
    let tokenizer = TOKENIZER.get_or_init(|| {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
        Tokenizer::load(&model).expect("the small model has a tokenizer")
    });
    let ids = infill(|text| tokenizer.encode(text), prefix, suffix).expect("any text can be encoded");
    let controls: Vec<_> = ids
        .iter()
        .copied()
        .filter(|id| *id <= control::BOS || (control::FIM_PREFIX..=control::END_OF_TURN).contains(id))
        .collect();
    let template = [control::BOS, control::FIM_PREFIX, control::FIM_SUFFIX, control::FIM_MIDDLE];
    assert_eq!(controls, template);

    let prefix_ids = tokenizer.encode(prefix).expect("any text can be encoded");
    let decoded = tokenizer.decode(&prefix_ids).expect("and decoded");
    // U+2581 stands for a space in the vocabulary.
    assert_eq!(decoded.expose(), &prefix.replace('\u{2581}', " "));
});
