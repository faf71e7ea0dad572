//! The hole-filling benchmark as a user runs it, with the embedded model.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use codeseal::engine::{self, EngineConfig, Event, GenerationRequest, Handle, Quantize, Sampling};
use codeseal::model::{ModelFiles, TINY_MODEL_NAME};
use codeseal::prompt::{self, Texts};
use codeseal::protocol::Dek;
use codeseal::tokenizer::TokenId;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::{Remains, backend, run_server, tiny};

/// A file of cases, and what is measured on it.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new(lines: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cases.jsonl"), lines.join("\n")).unwrap();
        Self { dir }
    }

    async fn run(&self, model: &Path, more: &[&str]) -> Remains {
        let cases = self.dir.path().join("cases.jsonl");
        let flags = ["eval", "fim", "--model", model.to_str().unwrap(), "--cases", cases.to_str().unwrap()];
        run_server(&[&flags, more].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()).await
    }

    /// What it reports of the embedded model, in JSON.
    async fn report(&self, more: &[&str]) -> Value {
        let few: &[&str] = if more.contains(&"--max-new-tokens") { &[] } else { &["--max-new-tokens", "12"] };
        let remains = self.run(Path::new("tiny"), &[more, few, &["--json"]].concat()).await;
        assert_eq!(remains.code, Some(0), "{}", remains.stderr);
        assert!(remains.stderr.contains("tokens/s"), "{}", remains.stderr);
        serde_json::from_str(&remains.stdout).unwrap()
    }
}

fn case(name: &str, prefix: &str, suffix: &str, middle: &str, kind: &str) -> Value {
    json!({"name": name, "prefix": prefix, "suffix": suffix, "middle": middle, "kind": kind})
}

fn cases() -> [Value; 4] {
    [
        case(
            "one",
            "def add(a, b):\n    return ",
            "\n\n\nprint(add(1, 2))\n",
            "QUITE + IMPOSSIBLE",
            "single",
        ),
        case("two", "for i in range(10):\n    ", "", "QUITE\nIMPOSSIBLE", "multi"),
        case("three", "import os\n\n", "\n\nprint(path)\n", "QUITE-IMPOSSIBLE", "single"),
        case("four", "", "    return x\n", "QUITE\nIMPOSSIBLE", "multi"),
    ]
}

fn lines(cases: &[Value]) -> Vec<String> {
    cases.iter().map(Value::to_string).collect()
}

#[tokio::test]
async fn what_the_model_writes_is_an_exact_match() {
    let mut cases = cases();
    let first = Bench::new(&lines(&cases)).report(&["--show", "9"]).await;
    for (kind, count) in [("single", 2), ("multi", 2), ("all", 4)] {
        assert_eq!(first[kind]["cases"], count);
        assert_eq!(first[kind]["exact_match"], 0.0);
        let alike = first[kind]["edit_similarity"].as_f64().unwrap();
        assert!((0.0..1.0).contains(&alike), "{kind}: {alike}");
    }

    let examples = first["examples"].as_array().unwrap();
    assert_eq!(examples.len(), cases.len());
    for (case, example) in cases.iter_mut().zip(examples) {
        assert_eq!((&case["name"], &case["middle"]), (&example["name"], &example["expected"]));
        case["middle"] = example["answer"].clone();
    }
    // One of the four stays wrong.
    cases[3]["middle"] = "QUITE\nIMPOSSIBLE".into();
    let second = Bench::new(&lines(&cases)).report(&[]).await;
    for (kind, exact) in [("single", 1.0), ("multi", 0.5), ("all", 0.75)] {
        assert_eq!(second[kind]["exact_match"], exact, "{kind}");
    }
    assert_eq!(second["single"]["edit_similarity"], 1.0);
    assert_eq!(second["new_tokens"], first["new_tokens"]);
}

#[tokio::test]
async fn figures_are_printed_and_texts_only_on_request() {
    let bench = Bench::new(&lines(&cases()));
    let plain = bench.run(&tiny(), &["--max-new-tokens", "4", "--limit", "3"]).await;
    assert_eq!(plain.code, Some(0), "{}", plain.stderr);
    assert!(
        plain.stdout.starts_with("tiny, weights as in the files, at most 4 new tokens\n"),
        "{}",
        plain.stdout
    );
    for row in ["single     2", "multi      1", "all        3"] {
        assert!(plain.stdout.lines().any(|line| line.starts_with(row)), "{row}: {}", plain.stdout);
    }
    assert!(!plain.stdout.contains("IMPOSSIBLE") && !plain.stderr.contains("IMPOSSIBLE"));
    let shown = bench.run(&tiny(), &["--max-new-tokens", "4", "--show", "1"]).await;
    assert_eq!(shown.stdout.matches("IMPOSSIBLE").count(), 1, "{}", shown.stdout);
}

/// What follows `prompt`, greedy.
async fn generated(handle: &Handle, prompt: Vec<TokenId>, max_new_tokens: usize) -> Vec<TokenId> {
    let request = GenerationRequest {
        prompt,
        max_new_tokens,
        stop_ids: prompt::stop_ids(),
        sampling: Sampling::GREEDY,
        logprobs: None,
        namespace: Dek::generate().unwrap().namespace(),
        deadline: Instant::now() + Duration::from_secs(60),
    };
    let (mut generation, mut tokens) = (handle.submit(request).unwrap(), Vec::new());
    while let Some(event) = generation.next().await {
        match event.unwrap() {
            Event::Started { .. } => {}
            Event::Token(token) => tokens.push(token.id),
            Event::Finished(_) => break,
        }
    }
    tokens
}

/// What the model with weights of this type writes into each hole, as a server's engine has it.
async fn served(quantize: Quantize, max_new_tokens: usize) -> Vec<String> {
    let config = EngineConfig { backend: backend(), ..EngineConfig::new(1, 1) };
    let (handle, _engine, tokenizer) =
        engine::open(&ModelFiles::tiny(), TINY_MODEL_NAME, quantize, config).unwrap();
    let mut answers = Vec::new();
    for case in cases() {
        let [prefix, suffix] = ["prefix", "suffix"].map(|member| case[member].as_str().unwrap());
        let prompt = prompt::infill(|text| tokenizer.encode(text), prefix, suffix).unwrap();
        let tokens = generated(&handle, prompt, max_new_tokens).await;
        let mut text = tokenizer.decode(&tokens).unwrap().expose().clone();
        if case["kind"] == "single" {
            text.truncate(text.find('\n').unwrap_or(text.len()));
        }
        answers.push(text);
    }
    answers
}

#[tokio::test]
async fn answers_are_those_of_a_server_with_the_same_weights() {
    let bench = Bench::new(&lines(&cases()));
    let mut all = Vec::new();
    for quantize in [Quantize::None, Quantize::Q8_0, Quantize::Q4K] {
        let name = quantize.as_str();
        let report = bench.report(&["--quantize", name, "--show", "4", "--max-new-tokens", "48"]).await;
        assert_eq!((&report["quantize"], &report["all"]["cases"]), (&name.into(), &4.into()));
        let examples = report["examples"].as_array().unwrap();
        let answers: Vec<_> = examples.iter().map(|example| example["answer"].as_str().unwrap()).collect();
        assert_eq!(answers, served(quantize, 48).await, "{name}");
        all.push(answers.concat());
    }
    assert_ne!(all[0], all[2], "four bits change nothing: the texts are too short to tell");
}

/// A hole that begins above the cursor is the same text for the model, with the middle marker at another place.
#[tokio::test]
async fn holes_can_begin_above_the_cursor() {
    let prefix =
        "import os\n\n\ndef sizes(paths):\n    found = {}\n    for path in paths:\n        found[path] = os.";
    let [line, above] = ["        found[path] = os.", "import os\n\n\ndef sizes"];
    let cases = [case("one", prefix, "\n    return found\n", "QUITE IMPOSSIBLE", "single")];
    let bench = Bench::new(&lines(&cases));
    let config = EngineConfig { backend: backend(), ..EngineConfig::new(1, 1) };
    let (handle, _engine, tokenizer) =
        engine::open(&ModelFiles::tiny(), TINY_MODEL_NAME, Quantize::None, config).unwrap();
    let encode = |text: &str| tokenizer.encode(text);
    for (name, middle) in [("cursor", ""), ("line", line), ("lines", prefix)] {
        let report = bench.report(&["--hole", name, "--show", "1"]).await;
        assert_eq!((&report["hole"], &report["prompts_shortened"]), (&name.into(), &0.into()));
        let prefix = prefix.strip_suffix(middle).unwrap();
        assert_eq!(prefix.starts_with(above), name != "lines");
        let texts = Texts { context: &[], prefix, suffix: Some("\n    return found\n"), middle };
        let prompt = prompt::assemble(encode, &texts, None).unwrap();
        let tokens = generated(&handle, prompt, 12).await;
        let text = tokenizer.decode(&tokens).unwrap().expose().clone();
        let first = text.split('\n').next();
        assert_eq!(report["examples"][0]["answer"].as_str(), first, "{name}");
    }
}

#[tokio::test]
async fn the_cases_beside_the_model_are_measured() {
    let cases = fs::read_to_string(tiny().join("cases/fim.jsonl")).unwrap();
    let cases: Vec<Value> = cases.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (single, multi): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case["kind"] == "single");
    assert_eq!((single.len(), multi.len()), (200, 200));
    let few: Vec<String> = [&single[..2], &multi[..2]].concat().into_iter().map(Value::to_string).collect();
    let report = Bench::new(&few).report(&[]).await;
    assert_eq!((&report["single"]["cases"], &report["multi"]["cases"]), (&2.into(), &2.into()));
    assert_eq!(report["prompts_shortened"], 0);
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_shortened() {
    // Many new tokens leave little room for the prompt, and a single line ends long before they are made.
    let long = "x = 1\n".repeat(2000);
    let cases = [case("long", &long, &long, "y", "single"), case("short", "x", "y", "z", "single")];
    let report = Bench::new(&lines(&cases)).report(&["--max-new-tokens", "8000"]).await;
    assert_eq!((&report["prompts_shortened"], &report["all"]["cases"]), (&1.into(), &2.into()));
}

#[tokio::test]
async fn wrong_usage_exits_with_64_and_says_where() {
    let mut lines = lines(&cases());
    lines.insert(2, r#"{"name": "broken", "prefix": ""}"#.to_owned());
    let remains = Bench::new(&lines).run(Path::new("tiny"), &[]).await;
    assert_eq!((remains.code, remains.stdout.as_str()), (Some(64), ""));
    assert!(remains.stderr.contains("line 3 of the cases is malformed"), "{}", remains.stderr);

    let bench = Bench::new(&self::lines(&cases()));
    for flags in [
        &["--quantize", "q4_0"][..],
        &["--quantize", "bf16"],
        &["--device", "gpu"],
        &["--backend", "torch"],
        &["--max-new-tokens", "0"],
        &["--max-new-tokens", "200000"],
        &["--limit", "none"],
        &["--hole", "word"],
    ] {
        assert_eq!(bench.run(Path::new("tiny"), flags).await.code, Some(64), "{flags:?}");
    }
    fs::remove_file(bench.dir.path().join("cases.jsonl")).unwrap();
    assert_eq!(bench.run(Path::new("tiny"), &[]).await.code, Some(64), "there are no cases");
}

#[tokio::test]
async fn a_directory_without_a_model_is_an_internal_failure() {
    let bench = Bench::new(&lines(&cases()));
    assert_eq!(bench.run(bench.dir.path(), &[]).await.code, Some(70));
}
