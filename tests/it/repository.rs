//! What stands around the sources agrees with them: dependencies, licence, CI and its recipes, the guide for contributors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All Rust sources below `directory`, as one text.
fn sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            text += &sources(&entry.path());
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(entry.path()).unwrap();
            text.push('\n');
        }
    }
    text
}

/// Whether `text` has a path that starts with the crate `name`.
fn uses(text: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = text.split_at(at);
        let after = after.strip_prefix(name).unwrap();
        let starts = !before.ends_with(|c| is_word(c) || c == ':' || c == '"' || c == '.');
        let imported = before.ends_with("use ") && after.starts_with([';', ' ']);
        starts && (after.starts_with("::") || imported)
    })
}

#[test]
fn a_crate_is_told_from_a_module_of_its_name() {
    for text in ["use http::Request;", "fn a(b: &http::Method)", "use http as h;", "(http::A)"] {
        assert!(uses(text, "http"), "{text}");
    }
    for text in ["use super::http::Http;", "self.http.get()", "\"http://\"", "use my_http::A;", "https::A"] {
        assert!(!uses(text, "http"), "{text}");
    }
}

#[test]
fn every_dependency_is_used() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let product = sources(&path("src"));
    let checks = sources(&path("tests")) + &sources(&path("benches")) + &product;
    let mut unused = Vec::new();
    for (table, text) in [("dependencies", &product), ("dev-dependencies", &checks)] {
        let names = manifest.get(table).and_then(toml::Value::as_table).unwrap().keys();
        assert!(names.len() > 5, "{table}");
        unused.extend(names.filter(|name| !uses(text, &name.replace('-', "_"))));
    }
    assert!(unused.is_empty(), "remove from Cargo.toml: {unused:?}");
}

#[test]
fn the_declared_licence_is_in_the_tree() {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    assert_eq!(manifest["package"]["license"].as_str(), Some("Apache-2.0"));
    let hash: String = Sha256::digest(read("LICENSE")).iter().map(|byte| format!("{byte:02x}")).collect();
    // LICENSE-2.0.txt, as the Apache Software Foundation publishes it.
    assert_eq!(hash, "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30");
}

#[test]
fn each_part_of_ci_has_a_recipe_that_runs_it() {
    let (ci, recipes) = (read(".ci/run"), read("justfile"));
    let parts = ci.split_once("PARTS=(").unwrap().1.split_once(')').unwrap().0;
    let parts: BTreeSet<&str> = parts.split_whitespace().collect();
    let defined = ci.lines().filter_map(|line| line.strip_prefix("part_")?.strip_suffix("() {"));
    assert_eq!(parts, defined.collect(), ".ci/run: PARTS and its functions");
    let called: BTreeSet<&str> =
        recipes.lines().filter_map(|line| line.strip_prefix("    .ci/run ")).collect();
    assert_eq!(parts, called, "justfile");
    for part in parts {
        assert!(recipes.contains(&format!("\n{part}:\n    .ci/run {part}\n")), "justfile: {part}");
        let guide = read("CONTRIBUTING.md");
        assert!(guide.contains(&format!("| `{part}` |")), "CONTRIBUTING.md: {part}");
    }
}

/// Files that have moved since would mislead readers.
#[test]
fn the_guides_name_files_that_exist() {
    for (name, least) in [("CONTRIBUTING.md", 15), ("docs/architecture.md", 40)] {
        let guide = read(name);
        let paths = paths_in(&guide);
        assert!(paths.len() > least, "{name}: {paths:?}");
        let missing: Vec<&&str> = paths.iter().filter(|name| !path(name).exists()).collect();
        assert!(missing.is_empty(), "{name} names {missing:?}");
    }
}

/// Paths of the repository that a text has between backquotes.
fn paths_in(text: &str) -> BTreeSet<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |text: &&str| {
        let root = text.split('/').next().unwrap_or_default();
        text.contains('/')
            && !text.contains([' ', '*', ':', '<'])
            && !text.contains("NAME")
            && [
                "src", "tests", "docs", "scripts", "benches", "models", "deploy", "findings", "kernels",
                ".ci",
            ]
            .contains(&root)
    };
    quoted.filter(is_path).collect()
}
