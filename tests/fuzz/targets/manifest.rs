//! The manifest and the sources in it: no name that is accepted can lead out of a directory.
#![no_main]

use codeseal::hub::{Manifest, ModelSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(source) = text.parse::<ModelSource>() {
        assert_eq!(source.to_string().parse(), Ok(source));
    }
    let Ok(manifest) = text.parse::<Manifest>() else { return };
    for entry in manifest.models() {
        assert_eq!(entry.source.to_string().parse(), Ok(entry.source.clone()));
        for file in &entry.files {
            assert!(!file.name.as_str().contains(['/', '\\']) && !file.name.as_str().starts_with('.'));
            assert!(file.pin.is_some() || !entry.is_locked());
        }
    }
});
