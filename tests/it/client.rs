//! The real `codeseal complete`, as scripts and editors call it: what it prints, and how it exits.

mod between;

use std::path::Path;
use std::process::{Output, Stdio};

use codeseal::protocol::{SessionTag, WrappedDek};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;

use self::between::{Between, Tamper};
use crate::harness::{PATIENCE, Server, World, clean};

const PROMPT: &str = "def canary_of_primus(x):\n";

/// A world with a server in it, and an employee's home.
struct Desk {
    world: World,
    server: Server,
    home: TempDir,
}

impl Desk {
    async fn new() -> Self {
        let world = World::start().await;
        let server = world.server().await;
        Self { world, server, home: tempfile::tempdir().unwrap() }
    }

    fn server_url(&self) -> String {
        self.server.url("")
    }

    /// `codeseal complete` with everything that it needs but a prompt, in the environment.
    fn complete(&self, flags: &[&str]) -> Command {
        let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
        command
            .arg("complete")
            .args(flags)
            .env("HOME", self.home.path())
            .env("CODESEAL_SERVER", self.server_url())
            .env("CODESEAL_KMS_KEY", self.world.sandbox.kms_key())
            .env("CODESEAL_SANDBOX_ENDPOINT", self.world.sandbox.endpoint())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, flags: &[&str]) -> Output {
        output(&mut self.complete(flags)).await
    }

    /// What the server continues `body` with, asked without the client.
    async fn expected(&self, body: serde_json::Value) -> String {
        let employee = self.world.employee().await;
        let (status, body) = self.server.ask(&employee, "/v1/completions", body).await;
        assert_eq!(status, 200, "{body}");
        body["choices"][0]["text"].as_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

async fn output(command: &mut Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output()).await.expect("the client hangs").unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn prints(output: &Output, expected: &str) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(stderr(output), "");
}

/// Exits with `code`, prints nothing, and says why in one line.
#[track_caller]
fn fails(output: &Output, code: i32, word: &str) {
    let stderr = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.contains(word), "{stderr}");
    assert!(!stderr.contains("canary"), "{stderr}");
}

/// A URL at which no server listens.
async fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn stdout_is_the_generated_code_and_nothing_else() {
    let desk = Desk::new().await;
    let expected = desk.expected(json!({"prompt": PROMPT, "max_tokens": 12})).await;
    assert!(!expected.is_empty());
    prints(&desk.run(&["--max-tokens", "12", PROMPT]).await, &expected);
    prints(&desk.run(&["--max-tokens", "12", "--stream", PROMPT]).await, &expected);
    let file = desk.write("prompt.py", PROMPT);
    prints(&desk.run(&["--max-tokens", "12", "--file", &file]).await, &expected);

    let mut child = desk.complete(&["--max-tokens", "12", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(PROMPT.as_bytes()).await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    prints(&output, &expected);
}

#[tokio::test]
async fn stop_texts_end_the_completion() {
    let desk = Desk::new().await;
    let whole = desk.expected(json!({"prompt": PROMPT, "max_tokens": 12})).await;
    let stop: String = whole.chars().skip(3).take(2).collect();
    let expected = whole.split(&stop).next().unwrap();
    prints(&desk.run(&["--max-tokens", "12", "--stop", &stop, PROMPT]).await, expected);
}

#[tokio::test]
async fn a_cursor_in_a_file_is_completed_between_what_is_around_it() {
    let desk = Desk::new().await;
    let file = desk.write("with:colon.py", "# 가나\r\nx = 🦀  # canary\r\n");
    let expected = desk.expected(json!({
        "prompt": "# 가나\nx = 🦀", "suffix": "  # canary\n", "max_tokens": 8,
    }));
    // The model sees the line ends that it was trained on, and the file gets its own back.
    let expected = expected.await.replace('\n', "\r\n");
    prints(&desk.run(&["--max-tokens", "8", "--fim", &format!("{file}:2:6")]).await, &expected);
    prints(&desk.run(&["--max-tokens", "8", "--stream", "--fim", &format!("{file}:2:6")]).await, &expected);
    fails(&desk.run(&["--fim", &format!("{file}:9:1")]).await, 2, "no line 9: it has 3");
    fails(&desk.run(&["--fim", &format!("{file}:1:9")]).await, 2, "its end is column 5");
}

#[tokio::test]
async fn lines_of_a_completion_end_as_those_of_its_file_do() {
    let desk = Desk::new().await;
    let (source, after) = ("def is_prime(n):\n    if n < 2:\n", "\nprint(is_prime(7))\n");
    let expected = desk.expected(json!({ "prompt": source, "suffix": after, "max_tokens": 16 })).await;
    assert!(expected.contains('\n'), "{expected}");
    let text = format!("{source}{after}");
    let crlf = desk.write("crlf.py", &format!("\u{feff}{}", text.replace('\n', "\r\n")));
    let lf = desk.write("lf.py", &text);
    let mixed = desk.write("mixed.py", &text.replacen('\n', "\r\n", 1));
    for flags in [&["--max-tokens", "16"][..], &["--max-tokens", "16", "--stream"]] {
        for (file, expected) in
            [(&crlf, expected.replace('\n', "\r\n")), (&lf, expected.clone()), (&mixed, expected.clone())]
        {
            let cursor = format!("{file}:3:1");
            prints(&desk.run(&[flags, &["--fim", &cursor]].concat()).await, &expected);
        }
    }
    let whole = desk.write("whole.py", &source.replace('\n', "\r\n"));
    let expected = desk.expected(json!({ "prompt": source, "max_tokens": 16 })).await;
    prints(&desk.run(&["--max-tokens", "16", "--file", &whole]).await, &expected.replace('\n', "\r\n"));
}

#[tokio::test]
async fn a_file_of_more_tokens_than_the_context_is_completed_all_the_same() {
    let mut desk = Desk::new().await;
    // Memory for some hundred tokens, which is the context then.
    let mut config = desk.world.config();
    config.engine.kv_cache_bytes = Some(5 << 20);
    desk.server = Server::start(config).await;
    // A token for each digit or two: 5 KB of it are more than the context holds.
    let dense: String = (0u32..400).map(|n| format!("{},\n", n.wrapping_mul(2_654_435_761))).collect();
    let file = desk.write("dense.py", &dense);
    let output = desk.run(&["--max-tokens", "4", "--fim", &format!("{file}:200:1")]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    // Without the client, whose requests let the server cut the text, it is refused.
    let body = json!({ "prompt": dense, "suffix": "", "max_tokens": 4 });
    let employee = desk.world.employee().await;
    let (status, _) = desk.server.ask(&employee, "/v1/completions", body).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn what_is_shown_of_the_wire_holds_no_plaintext() {
    let desk = Desk::new().await;
    for flags in
        [&["--show-sealed", "--max-tokens", "12", PROMPT][..], &["--show-sealed", "--stream", PROMPT]]
    {
        let output = desk.run(flags).await;
        assert_eq!(output.status.code(), Some(0));
        let (stdout, stderr) = (String::from_utf8(output.stdout.clone()).unwrap(), stderr(&output));
        assert!(stderr.contains("sending encrypted payload: {\"wrapped_dek\":\""), "{stderr}");
        assert!(stderr.contains("received encrypted response: "), "{stderr}");
        assert!(stderr.lines().all(|line| line.contains("gAAAAA")), "{stderr}");
        assert!(!stderr.contains("canary"), "{stderr}");
        assert!(!stdout.is_empty() && !stdout.contains("encrypted") && !stderr.contains(&stdout));
    }
}

#[tokio::test]
async fn flags_win_over_the_environment_and_that_over_the_file() {
    let desk = Desk::new().await;
    let (right, wrong) = (desk.server_url(), closed_port().await);
    let (key, kms) = (desk.world.sandbox.kms_key(), desk.world.sandbox.endpoint());
    let config = |server: &str| {
        let text = format!(
            "server = \"{server}\"\nkms_key = \"{key}\"\nsandbox_endpoint = \"{kms}\"\nmax_tokens = 3\n"
        );
        desk.write(".config/codeseal/config.toml", &text);
    };
    let bare = |flags: &[&str]| {
        let mut command = desk.complete(flags);
        command.env_remove("CODESEAL_SERVER");
        command.env_remove("CODESEAL_KMS_KEY").env_remove("CODESEAL_SANDBOX_ENDPOINT");
        command
    };
    config(&right);
    let expected = desk.expected(json!({"prompt": PROMPT, "max_tokens": 3})).await;
    prints(&output(&mut bare(&[PROMPT])).await, &expected);
    fails(&output(bare(&[PROMPT]).env("CODESEAL_SERVER", &wrong)).await, 3, "cannot reach");
    prints(&output(bare(&["--server", &right, PROMPT]).env("CODESEAL_SERVER", &wrong)).await, &expected);

    config(&wrong);
    fails(&output(&mut bare(&[PROMPT])).await, 3, "cannot reach");
    prints(&output(bare(&[PROMPT]).env("CODESEAL_SERVER", &right)).await, &expected);

    // The specification of XDG: this variable says where configuration is, instead.
    let elsewhere = desk.home.path().join("elsewhere");
    let mut command = bare(&[PROMPT]);
    fails(&output(command.env("XDG_CONFIG_HOME", &elsewhere)).await, 2, "no server: give --server");
    desk.write("elsewhere/codeseal/config.toml", "sever = \"http://127.0.0.1:1\"\n");
    fails(&output(command.env("XDG_CONFIG_HOME", &elsewhere)).await, 2, "unknown field `sever`");
}

#[tokio::test]
async fn what_the_server_refuses_is_1() {
    let desk = Desk::new().await;
    let sealed = desk.run(&["--max-tokens", "1000000", PROMPT]).await;
    fails(&sealed, 1, "context_length_exceeded");
    fails(&desk.run(&["--max-tokens", "1000000", "--stream", PROMPT]).await, 1, "context_length_exceeded");
    let key = "projects/p/locations/global/keyRings/r/cryptoKeys/none";
    fails(&desk.run(&["--kms-key", key, PROMPT]).await, 1, "key is missing");
    let between = Between::start(&desk.server_url(), Tamper::Refuse).await;
    fails(&desk.run(&["--server", &between.url, PROMPT]).await, 1, "status 500");
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_as_such_and_asked_once() {
    let desk = Desk::new().await;
    for (ahead, side) in [(3600, "ahead of the server's"), (-3600, "behind the server's")] {
        for flags in [&[][..], &["--stream"]] {
            let between = Between::start(&desk.server_url(), Tamper::ClockSkew(ahead)).await;
            let flags: Vec<&str> = flags.iter().chain(&["--server", &between.url, PROMPT]).copied().collect();
            let output = desk.run(&flags).await;
            fails(&output, 1, "clock_skew");
            let stderr = stderr(&output);
            assert!(stderr.contains("this machine's clock is 3") && stderr.contains(side), "{stderr}");
            assert!(!stderr.contains('\u{202e}') && !stderr.contains("too old"), "{stderr}");
            assert_eq!(between.requests().len(), 1, "sealing it again does not help");
        }
    }
}

#[tokio::test]
async fn wrong_usage_is_2() {
    let desk = Desk::new().await;
    let binary = desk.home.path().join("binary");
    std::fs::write(&binary, b"\xff\xfe").unwrap();
    for (flags, word) in [
        (&[][..], "required"),
        (&["--server", "127.0.0.1:1", PROMPT], "--server: must be"),
        (&["--kms-key", "k", PROMPT], "--kms-key: "),
        (&["--temperature", "3", PROMPT], "--temperature: must be"),
        (&["--no-such-flag", PROMPT], "unexpected argument"),
        (&["--file", binary.to_str().unwrap()], "not UTF-8"),
        (&["--file", "/nonexistent/prompt"], "cannot read the prompt"),
        (&["--fim", "a.py"], "must be FILE:LINE:COL"),
    ] {
        fails(&desk.run(flags).await, 2, word);
    }
}

#[tokio::test]
async fn an_unreachable_server_is_3() {
    let desk = Desk::new().await;
    let closed = closed_port().await;
    fails(&desk.run(&["--server", &closed, PROMPT]).await, 3, "cannot reach the server");
    // Bound, never accepted from: the connection is made, and then there is silence.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let output = desk.run(&["--server", &silent, "--timeout-secs", "1", PROMPT]).await;
    fails(&output, 3, "no answer within 1 s");
    fails(&desk.run(&["--sandbox-endpoint", &closed, PROMPT]).await, 3, "cannot wrap the session's key");
}

#[tokio::test]
async fn an_answer_that_is_not_authentic_is_4() {
    let desk = Desk::new().await;
    for tamper in [Tamper::Garbage, Tamper::OtherKey, Tamper::Echo, Tamper::FlipBit, Tamper::CutConnection] {
        let between = Between::start(&desk.server_url(), tamper).await;
        fails(&desk.run(&["--server", &between.url, PROMPT]).await, 4, "not authentic");
    }
    for tamper in [Tamper::Garbage, Tamper::OtherKey, Tamper::FlipBit, Tamper::DropFirst, Tamper::SwapFirst] {
        let between = Between::start(&desk.server_url(), tamper).await;
        fails(&desk.run(&["--server", &between.url, "--stream", PROMPT]).await, 4, "not authentic");
    }
}

#[tokio::test]
async fn a_stream_that_goes_wrong_later_is_4_after_what_was_good() {
    let desk = Desk::new().await;
    let whole = desk.expected(json!({"prompt": PROMPT})).await;
    for tamper in [Tamper::DropLast, Tamper::RepeatLast, Tamper::CutConnection] {
        let between = Between::start(&desk.server_url(), tamper).await;
        let output = desk.run(&["--server", &between.url, "--stream", PROMPT]).await;
        let stdout = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(whole.starts_with(&stdout), "{stdout}");
        let expected = if tamper == Tamper::RepeatLast { 0 } else { 4 };
        assert_eq!(output.status.code(), Some(expected), "{tamper:?}: {}", stderr(&output));
    }
}

#[tokio::test]
async fn a_busy_server_is_asked_again_with_a_new_envelope() {
    let desk = Desk::new().await;
    let expected = desk.expected(json!({"prompt": PROMPT, "max_tokens": 4})).await;
    for flags in [&["--max-tokens", "4"][..], &["--max-tokens", "4", "--stream"]] {
        let between = Between::start(&desk.server_url(), Tamper::BusyOnce).await;
        let flags: Vec<&str> = flags.iter().chain(&["--server", &between.url, PROMPT]).copied().collect();
        prints(&desk.run(&flags).await, &expected);
        let [first, second] = <[serde_json::Value; 2]>::try_from(between.requests()).unwrap();
        assert_eq!(first["wrapped_dek"], second["wrapped_dek"]);
        assert_ne!(first["ciphertext"], second["ciphertext"]);
        // A load balancer sends both to the same replica, which has the key already.
        let wrapped = WrappedDek::parse(first["wrapped_dek"].as_str().unwrap()).unwrap();
        assert_eq!(between.sessions(), vec![SessionTag::of(&wrapped).to_string(); 2]);
    }
}

#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    let desk = Desk::new().await;
    for flags in [&[PROMPT][..], &["--stream", PROMPT]] {
        let mut child = desk.complete(flags).spawn().unwrap();
        drop(child.stdout.take());
        let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    }
}

#[tokio::test]
async fn help_tells_the_exit_codes() {
    let output =
        output(Command::from(clean(env!("CARGO_BIN_EXE_codeseal"))).args(["complete", "--help"])).await;
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["CODESEAL_SERVER", "--fim <FILE:LINE:COL>", "not authentic", "config.toml"] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[tokio::test]
async fn the_sandbox_says_where_it_is_and_serves_until_it_is_told_to_stop() {
    let home = tempfile::tempdir().unwrap();
    let condition = home.path().join("condition.cel");
    std::fs::write(&condition, "assertion.hwmodel == 'GCP_AMD_SEV'").unwrap();
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut child = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")))
            .args(["sandbox", "--listen", "127.0.0.1:0", "--dir"])
            .arg(home.path().join("cs"))
            .arg("--condition")
            .arg(&condition)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await.unwrap().unwrap();
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
        for name in ["endpoint", "kms_key", "token_file", "socket", "wip_audience", "service_account"] {
            assert!(ready[name].is_string(), "{name}: {line}");
        }
        assert!(Path::new(ready["token_file"].as_str().unwrap()).is_file());
        let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let status = tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0));
    }
}
