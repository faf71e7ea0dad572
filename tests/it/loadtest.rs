//! The load test as a user runs it, against a server and a sandbox on loopback.

use serde_json::Value;

use super::harness::{Process, Remains, World, run_server};

/// A world and a server of it in a process of its own, as a load test finds them.
struct Target {
    world: World,
    server: Process,
}

impl Target {
    async fn start() -> Self {
        let world = World::start().await;
        let mut flags = world.flags();
        // A shaped answer then takes a tenth of the time of the default.
        flags.extend(["--stream-interval-ms", "5"].map(String::from));
        Self { server: Process::start(&flags).await, world }
    }

    async fn run(&self, more: &[&str]) -> Remains {
        let sandbox = &self.world.sandbox;
        let server = format!("http://{}", self.server.address);
        let flags = [
            &["loadtest", "--server", &server, "--kms-key", sandbox.kms_key()][..],
            &["--sandbox-endpoint", sandbox.endpoint()][..],
            more,
        ];
        run_server(&flags.concat().into_iter().map(str::to_owned).collect::<Vec<_>>()).await
    }

    async fn report(&self, more: &[&str]) -> Value {
        let remains = self.run(&[more, &["--json", "--prompt-tokens", "100"]].concat()).await;
        assert_eq!(remains.code, Some(0), "{}{}", remains.stdout, remains.stderr);
        serde_json::from_str(&remains.stdout).unwrap()
    }
}

fn number(report: &Value, path: &str) -> f64 {
    report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path}: {report}"))
}

#[tokio::test]
async fn a_closed_loop_reports_what_its_clients_see() {
    let target = Target::start().await;
    let slo = ["--slo-ttft-ms", "60000", "--slo-e2e-ms", "60000"];
    let flags = [&["--clients", "3", "--requests", "9", "--new-tokens", "4"][..], &slo].concat();
    let report = target.report(&flags).await;
    assert_eq!((&report["requests"], &report["answered"]), (&9.into(), &9.into()));
    assert_eq!((&report["setting"]["sessions"], &report["errors"]), (&3.into(), &serde_json::json!({})));
    // The server counts tokens: the text was made as long as its tokenizer has it.
    assert!((number(&report, "/mean_prompt_tokens") - 100.0).abs() < 15.0, "{report}");
    assert!((1.0..=4.0).contains(&number(&report, "/mean_new_tokens")), "{report}");
    for times in ["ttft_ms", "e2e_ms"] {
        let at = |name| number(&report, &format!("/{times}/{name}"));
        assert!(0.0 < at("p50") && at("p50") <= at("p90") && at("p90") <= at("p99"), "{report}");
        assert!(at("p99") <= at("max"), "{report}");
    }
    assert!(number(&report, "/ttft_ms/mean") <= number(&report, "/e2e_ms/mean"), "{report}");
    assert_eq!(number(&report, "/goodput/share"), 1.0);
    let impossible = target.report(&["--requests", "2", "--slo-e2e-ms", "0", "--new-tokens", "2"]).await;
    assert_eq!(number(&impossible, "/goodput/share"), 0.0);
}

/// With slots of 100 ms a stream lasts 3.2 s, most of it after the text.
#[tokio::test]
async fn clients_may_ask_again_when_they_have_the_text() {
    let world = World::start().await;
    let mut flags = world.flags();
    flags.extend(["--stream-interval-ms", "100"].map(String::from));
    let target = Target { server: Process::start(&flags).await, world };
    let flags =
        ["--clients", "2", "--requests", "6", "--new-tokens", "2", "--after", "text", "--warm-up", "0"];
    let report = target.report(&flags).await;
    assert_eq!((&report["requests"], &report["answered"]), (&6.into(), &6.into()));
    // Three requests of each client lie within the time of fewer than three streams.
    let (text, whole) = (number(&report, "/text_end_ms/max"), number(&report, "/e2e_ms/mean"));
    assert!(text < whole && number(&report, "/seconds") < 3.0 * whole / 1e3, "{report}");
}

#[tokio::test]
async fn an_open_loop_does_not_wait_for_answers() {
    let target = Target::start().await;
    let flags = ["--rate", "200", "--requests", "8", "--sessions", "2", "--new-tokens", "2", "--whole"];
    let report = target.report(&flags).await;
    assert_eq!((&report["setting"]["loop"], &report["answered"]), (&"open".into(), &8.into()));
    assert!(report.get("ttft_ms").is_none(), "nothing was streamed: {report}");
}

#[tokio::test]
async fn requests_that_fail_are_counted_by_their_code_and_told_by_the_exit_code() {
    let target = Target::start().await;
    // More than the context holds; a warm-up would be refused already.
    let flags = ["--requests", "2", "--new-tokens", "100000", "--warm-up", "0", "--prompt-tokens", "64"];
    let remains = target.run(&flags).await;
    assert_eq!(remains.code, Some(1), "{}{}", remains.stdout, remains.stderr);
    assert!(remains.stdout.contains("0 answered, 2 failed"), "{}", remains.stdout);
    assert!(remains.stdout.lines().any(|line| line.starts_with("failed with ")), "{}", remains.stdout);
    assert!(remains.stderr.contains("not every request was answered"), "{}", remains.stderr);
}

#[tokio::test]
async fn without_a_server_no_load_is_begun() {
    let world = World::start().await;
    let sandbox = &world.sandbox;
    let flags = ["loadtest", "--server", "http://127.0.0.1:1", "--kms-key", sandbox.kms_key()];
    let flags = [&flags[..], &["--sandbox-endpoint", sandbox.endpoint()]].concat();
    let remains = run_server(&flags.into_iter().map(str::to_owned).collect::<Vec<_>>()).await;
    assert_eq!((remains.code, remains.stdout.as_str()), (Some(69), ""), "{}", remains.stderr);
    assert!(remains.stderr.contains("cannot begin"), "{}", remains.stderr);
}
