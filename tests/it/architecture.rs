//! Module boundaries, held by scanning the sources: what `docs/architecture.md` says, a build must not break.

use std::fs;
use std::path::{Path, PathBuf};

/// A module and the paths that may not occur in it.
struct Rule {
    module: &'static str,
    may_not_touch: &'static [&'static str],
}

const HTTP: &str = "axum";
const MODEL: &str = "candle_";
const KMS: &str = "google_cloud_";

const RULES: &[Rule] = &[
    Rule {
        module: "protocol",
        may_not_touch: &[
            HTTP,
            MODEL,
            KMS,
            "reqwest",
            "tokio",
            "crate::server",
            "crate::client",
            "crate::keys",
        ],
    },
    Rule { module: "keys", may_not_touch: &[HTTP, MODEL, "crate::prompt", "crate::engine", "crate::server"] },
    Rule { module: "attestation", may_not_touch: &[HTTP, MODEL, "crate::engine", "crate::server"] },
    Rule {
        module: "server",
        may_not_touch: &[
            MODEL,
            KMS,
            "fernet::",
            "aws_lc_rs",
            "crate::sandbox",
            "crate::client",
            "crate::model",
        ],
    },
    Rule {
        module: "policy",
        may_not_touch: &[
            HTTP,
            MODEL,
            KMS,
            "reqwest",
            "hyper",
            "tokio",
            "std::fs",
            "std::net",
            "std::env",
            "std::process",
            "crate::client",
            "crate::keys",
            "crate::sandbox",
            "crate::server",
        ],
    },
    Rule { module: "prompt", may_not_touch: &[HTTP, MODEL, "tokio", "std::fs", "std::io", "async fn"] },
    Rule { module: "tokenizer.rs", may_not_touch: &[HTTP, "reqwest", "hyper"] },
    Rule { module: "engine", may_not_touch: &[HTTP, KMS, "hyper", "crate::keys", "crate::server"] },
    Rule { module: "model", may_not_touch: &["tokio", HTTP, "crate::engine", "crate::server"] },
    Rule {
        module: "bench",
        may_not_touch: &[HTTP, MODEL, KMS, "hyper", "reqwest", "tokio", "crate::engine", "crate::server"],
    },
    Rule {
        module: "eval",
        may_not_touch: &[HTTP, MODEL, KMS, "hyper", "reqwest", "crate::keys", "crate::server", "crate::hub"],
    },
    Rule {
        module: "loadtest",
        may_not_touch: &[
            HTTP,
            MODEL,
            KMS,
            "hyper",
            "reqwest",
            "crate::engine",
            "codeseal_kernels",
            "crate::model",
            "crate::sandbox",
            "crate::server",
            "crate::tokenizer",
        ],
    },
    Rule { module: "hub", may_not_touch: &[MODEL, HTTP, "crate::engine", "crate::protocol::Dek"] },
    Rule {
        module: "client",
        may_not_touch: &[HTTP, MODEL, "crate::engine", "crate::model", "codeseal_kernels", "crate::server"],
    },
    Rule {
        module: "proxy",
        may_not_touch: &[
            MODEL,
            KMS,
            "fernet::",
            "crate::engine",
            "crate::kernels",
            "crate::model",
            "crate::prompt",
            "crate::sandbox",
            "crate::server",
            "crate::tokenizer",
        ],
    },
    Rule { module: "config", may_not_touch: &["reqwest", "hyper", MODEL, HTTP, "TcpListener"] },
    Rule {
        module: "telemetry",
        may_not_touch: &["crate::secret", "crate::protocol::Dek", "crate::engine", "crate::keys", HTTP],
    },
];

#[test]
fn modules_touch_only_what_they_may() {
    let mut broken = Vec::new();
    for rule in RULES {
        for file in sources(rule.module) {
            for (number, line) in code_lines(&fs::read_to_string(&file).unwrap()) {
                for path in rule.may_not_touch.iter().filter(|path| mentions(&line, path)) {
                    broken.push(format!(
                        "{}:{number}: `{}` may not touch `{path}`",
                        file.display(),
                        rule.module
                    ));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
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
    for file in sources("").into_iter().filter(|file| !is_in(file, "config") && !is_in(file, "bin")) {
        for (number, line) in code_lines(&fs::read_to_string(&file).unwrap()) {
            let reads = ["env::var", "env::vars", "var_os("].iter().any(|path| line.contains(path));
            assert!(!reads, "{}:{number} reads the environment", file.display());
        }
    }
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
fn only_telemetry_writes_to_the_log() {
    for file in sources("").into_iter().filter(|file| !is_in(file, "telemetry")) {
        for (number, line) in code_lines(&fs::read_to_string(&file).unwrap()) {
            let writes = ["tracing::", "log::"].iter().any(|path| mentions(&line, path));
            assert!(!writes, "{}:{number} logs past the closed set of events", file.display());
        }
    }
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

#[test]
fn every_rule_names_a_module_that_exists() {
    for rule in RULES {
        assert!(!sources(rule.module).is_empty(), "{}", rule.module);
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

fn is_in(file: &Path, module: &str) -> bool {
    file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap().starts_with(module)
}

/// Numbered lines without comments, up to the file's unit tests.
fn code_lines(text: &str) -> Vec<(usize, String)> {
    let code = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    code.enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap_or_default().to_owned()))
        .collect()
}

/// Whether `line` holds `path` as a path of its own, not as the tail of a longer name.
fn mentions(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        !before.is_some_and(|character| character.is_alphanumeric() || character == '_' || character == ':')
    })
}
