//! Module boundaries: each module's doc comment says what it may use, and a build that breaks it fails here.

mod law;
mod planted;
mod scan;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use self::scan::Tree;

static TREE: LazyLock<Tree> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    Tree::read("lib.rs", &|file| fs::read_to_string(source.join(file)).ok())
});

#[test]
fn modules_touch_only_what_they_may() {
    let found = law::violations(&TREE);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn neither_modules_nor_files_use_each_other_in_circles() {
    let cycles = law::module_cycles(&TREE).into_iter().chain(law::file_cycles(&TREE));
    let found: Vec<String> = cycles.map(|names| names.join(" ")).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Places outside of `exempt`, a top-level module, that use one of `paths` of other crates.
fn uses_outside(exempt: &str, paths: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, module) in &TREE.modules {
        if path.get(1).is_some_and(|top| top == exempt) {
            continue;
        }
        let others = TREE.uses(path).iter().filter(|used| used.owner.is_none());
        for used in others.filter(|used| paths.iter().any(|path| law::matches(path, &used.path))) {
            found.push(format!("{}:{} uses {}", module.file, used.line, used.path.join("::")));
        }
    }
    found
}

#[test]
fn only_the_sandbox_feature_can_redirect_keys() {
    // An endpoint override in the production image would let an operator collect attestation tokens.
    for file in ["keys", "config", "server", "client", "loadtest", "proxy"].into_iter().flat_map(sources) {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in code_lines(&text) {
            if line.contains("Sandbox(") || line.contains("sandbox_endpoint:") {
                let above: Vec<&str> = text.lines().take(number).collect();
                let gated = above.iter().rev().take(12).any(|line| line.contains(r#"feature = "sandbox""#));
                assert!(gated, "{}:{number} is not behind the sandbox feature", file.display());
            }
        }
    }
}

#[test]
fn nothing_below_config_reads_the_environment() {
    let found = uses_outside("config", &["std::env::var*"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What a developer has set must decide no test: see `harness::clean` and `flags::typed`.
#[test]
fn tests_do_not_read_the_developers_environment() {
    let mut files = sources("");
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut files);
    let mut seen = 0;
    for file in files.iter().filter(|file| !file.ends_with("tests/it/architecture.rs")) {
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let place = format!("{}:{}", file.display(), index + 1);
            if line.contains("Command::new(") && !line.contains("clap::") {
                seen += 1;
                let next = &lines[index..(index + 4).min(lines.len())];
                assert!(
                    next.iter().any(|line| line.contains("env_clear()")),
                    "{place} starts a program as it is"
                );
            }
            assert!(!line.contains("parse_from("), "{place} reads the environment: use flags::typed");
        }
    }
    assert!(seen >= 3, "the scan finds nothing");
}

#[test]
fn only_its_folder_uses_candle() {
    let (folder, mut inside) = ("model/gemma/candle/", false);
    for (path, module) in &TREE.modules {
        let others = TREE.uses(path).iter().filter(|used| used.owner.is_none());
        for used in others.filter(|used| law::matches("candle_*", &used.path)) {
            inside |= module.file.starts_with(folder);
            assert!(module.file.starts_with(folder), "{}:{} uses candle", module.file, used.line);
        }
    }
    assert!(inside, "the scan finds nothing");
}

#[test]
fn only_telemetry_writes_to_the_log() {
    let found = uses_outside("telemetry", &["tracing*", "log"]);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_client_uses_the_path_whose_answers_are_not_padded() {
    let modules = ["client", "loadtest", "demo", "config/client", "bin/codeseal.rs"];
    for file in modules.into_iter().flat_map(sources) {
        for (number, line) in code_lines(&fs::read_to_string(&file).unwrap()) {
            let uses = ["/generate", "GenerateReply", "parse_generate", "seal_generated", "open_prompt"];
            let uses = uses.iter().any(|name| line.contains(name));
            assert!(!uses, "{}:{number} uses /generate", file.display());
        }
    }
}

/// The Rust files of a module, or of all of `src` for the empty name.
fn sources(module: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module), &mut files);
    files
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        files.push(path.to_owned());
    }
}

/// Numbered lines without comments, up to the file's unit tests.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    code.enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default().to_owned()))
        .collect()
}
