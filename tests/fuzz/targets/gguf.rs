//! The header of a GGUF file: read or refused, never a panic, and nothing is allocated that the file does not fill.
#![no_main]

use codeseal::model::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(config) = Config::of_gguf(data) {
        assert!(config.num_heads.is_multiple_of(config.num_kv_heads) && config.vocab_size >= 108);
    }
    let whole = [b"GGUF\x03\0\0\0", data].concat();
    drop(Config::of_gguf(&whole));
});
