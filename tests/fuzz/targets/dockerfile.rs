//! Dockerfiles and image configurations: read or refused, linted without a panic, and read the same way twice.
#![no_main]

use std::collections::BTreeMap;

use codeseal::policy::Image;
use codeseal::policy::lint::{Launcher, lint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let arguments = BTreeMap::from([("A".to_owned(), "$A \"'\\".to_owned())]);
    for text in [text.to_owned(), format!("FROM scratch\n{text}"), format!("FROM scratch\nONBUILD {text}\nFROM 0")] {
        let read = Image::read(&text, &arguments);
        assert_eq!(read, Image::read(&text, &arguments));
        let Ok(image) = read else { continue };
        for launcher in [Launcher::Preview, Launcher::Current] {
            let report = lint(&image, Some(&image), launcher);
            assert!(!report.to_string().is_empty());
            // What refuses the launch is never clean.
            assert!(!report.is_clean() || report.ports.iter().all(|port| port.ends_with("/tcp")));
        }
    }
});
