//! The beginning and the end of the process: nothing is taken before it is ready, nothing is lost on SIGTERM.

use std::sync::OnceLock;
use std::time::Duration;

use codeseal::engine::ModelFiles;
use codeseal::sandbox::Fault;
use codeseal::server::ModelOrigin;
use codeseal::server::Service;
use codeseal::tokenizer::Tokenizer;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Answer, ENDLESS, Employee, Process, Sealed, Server, World, http, run_server, until};

/// Set when the model of the test that waits for one has been loaded.
static LOADED: OnceLock<()> = OnceLock::new();

fn stream(employee: &Employee, max_tokens: usize) -> Sealed {
    employee.seal("/v1/completions", &json!({
        "prompt": ENDLESS, "stream": true, "max_tokens": max_tokens, "stream_options": { "include_usage": true }
    }))
}

async fn begin(address: String, body: Value) -> reqwest::Response {
    http().post(format!("http://{address}/v1/completions")).json(&body).send().await.unwrap()
}

async fn get(address: &str, path: &str) -> Answer {
    Answer::read(http().get(format!("http://{address}{path}")).send().await.unwrap()).await
}

#[tokio::test]
async fn sigterm_lets_running_requests_finish_and_takes_no_new_ones() {
    let world = World::start().await;
    let employee = world.employee().await;
    let mut process = Process::start(&world.flags()).await;
    until("the server is ready", async || get(&process.address, "/readyz").await.status == 200).await;

    // It runs for as long as its key does not come.
    world.sandbox.faults().inject(Fault::KmsHang);
    let sealed = stream(&employee, 100);
    let running = tokio::spawn(begin(process.address.clone(), sealed.body.clone()));
    until("the request runs", async || {
        get(&process.admin_address, "/metrics").await.text.contains("codeseal_requests_in_flight 1")
    })
    .await;
    process.signal(Signal::TERM);
    process.until_logged(" draining ").await;

    let readiness = get(&process.address, "/readyz").await;
    assert_eq!((readiness.status, readiness.code().as_str()), (503, "draining"));
    assert_eq!(get(&process.address, "/livez").await.status, 200);
    let url = format!("http://{}/generate", process.address);
    let refused = http().post(url).json(&employee.prompt(b"y")).send().await.unwrap();
    let refused = Answer::read(refused).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "draining"));
    assert_eq!(refused.retry_after, Some(2));

    world.sandbox.faults().clear();
    let stream = running.await.unwrap().text().await.unwrap();
    let frames = employee.open_stream(sealed.id, &stream);
    let end = frames.iter().flat_map(|frame| &frame.events).next_back().unwrap();
    let end: Value = serde_json::from_str(end.get()).unwrap();
    assert_eq!(end["usage"]["completion_tokens"], 100, "it was cut short: {end}");
    let remains = process.remains().await;
    assert_eq!(remains.code, Some(0), "{}{}", remains.stdout, remains.stderr);
    assert!(remains.stdout.contains(" drained cancelled=0"), "{}", remains.stdout);
    assert_eq!(remains.stderr, "");
}

#[tokio::test]
async fn what_does_not_finish_within_the_drain_limit_is_cut() {
    let world = World::start().await;
    let employee = world.employee().await;
    let mut flags = world.flags();
    // A stream has 8 frames at least: this one cannot end by itself before it is cut.
    flags.extend(["--drain-secs", "1", "--stream-interval-ms", "1000"].map(String::from));
    let process = Process::start(&flags).await;
    let sealed = stream(&employee, 8000);
    let stream = begin(process.address.clone(), sealed.body).await;
    process.signal(Signal::TERM);
    let remains = process.remains().await;
    assert_eq!(remains.code, Some(0), "{}{}", remains.stdout, remains.stderr);
    assert!(remains.stdout.contains(" drained cancelled=1"), "{}", remains.stdout);
    let rest = stream.text().await;
    assert!(rest.is_err(), "a cut stream does not look like a whole one: {rest:?}");
}

#[tokio::test]
async fn an_idle_server_ends_at_once() {
    let world = World::start().await;
    for signal in [Signal::TERM, Signal::INT] {
        let process = Process::start(&world.flags()).await;
        // A connection that is kept alive is no reason to wait.
        assert_eq!(get(&process.address, "/livez").await.status, 200);
        process.signal(signal);
        let started = std::time::Instant::now();
        assert_eq!(process.remains().await.code, Some(0));
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn until_the_model_is_loaded_requests_are_told_to_wait() {
    let world = World::start().await;
    let mut config = world.config();
    config.model = ModelOrigin::Files { name: String::from("slow"), files: ModelFiles::tiny() };
    let service = Service::start_with(config, |_, _, _, _| {
        LOADED.wait();
        Err(Tokenizer::from_json(b"no tokenizer").err().unwrap().into())
    });
    let server = Server { service: service.await.unwrap(), http: http() };
    let employee = world.employee().await;
    let refused = server.post("/generate", &employee.prompt(b"x")).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "starting"));
    assert_eq!(refused.retry_after, Some(5));
    assert_eq!(server.get("/readyz").await.code(), "starting");
    assert_eq!(server.get("/livez").await.status, 200);

    LOADED.set(()).unwrap();
    let mut service = server.service;
    assert_eq!(service.ready().await.unwrap_err().exit_code(), 70);
}

#[tokio::test]
async fn a_machine_that_does_not_fit_its_profile_opens_no_port() {
    let world = World::start().await;
    let mut flags = world.flags();
    flags.extend(["--profile", "tdx"].map(String::from));
    let remains = run_server(&flags).await;
    assert_eq!(remains.code, Some(78), "{}", remains.stderr);
    assert!(remains.stderr.contains("hwmodel"), "{}", remains.stderr);
    assert!(!remains.stdout.contains(" ready "), "{}", remains.stdout);
}

#[tokio::test]
async fn a_machine_without_a_token_opens_no_port() {
    let world = World::start().await;
    let mut flags = world.flags();
    for (flag, missing) in
        [("--attestation-token", "/nonexistent/a"), ("--attestation-socket", "/nonexistent/b")]
    {
        let at = flags.iter().position(|known| known == flag).unwrap();
        flags[at + 1] = missing.to_owned();
    }
    let remains = run_server(&flags).await;
    assert_eq!(remains.code, Some(78), "{}", remains.stderr);
    assert!(!remains.stderr.contains("nonexistent"), "no path in a message: {}", remains.stderr);
}

#[tokio::test]
async fn a_device_that_is_not_there_ends_the_process_and_one_line_says_so() {
    let world = World::start().await;
    let mut serve = world.flags();
    serve.extend(["--device", "cuda"].map(String::from));
    let bench = ["bench", "--model", "tiny", "--device", "cuda"].map(String::from).to_vec();
    let check = ["kernels-check", "--device", "cuda"].map(String::from).to_vec();
    for flags in [serve, bench, check] {
        let remains = run_server(&flags).await;
        assert_eq!(remains.code, Some(69), "{}{}", remains.stdout, remains.stderr);
        assert_eq!(remains.stderr, "codeseal-server: no device: this program was built without CUDA\n");
        assert!(!remains.stdout.contains(" ready "), "{}", remains.stdout);
    }
}

#[tokio::test]
async fn wrong_usage_is_told_apart() {
    let world = World::start().await;
    let flags = |more: &[&str]| [world.flags(), more.iter().map(ToString::to_string).collect()].concat();
    for wrong in [flags(&["--no-such-flag"]), flags(&["--drain-secs", "26"]), vec![]] {
        assert_eq!(run_server(&wrong).await.code, Some(64));
    }
    let help = run_server(&[String::from("--help")]).await;
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Exit codes:"));
}

#[tokio::test]
async fn an_expired_token_ends_the_process_if_that_is_the_policy() {
    let world = World::start().await;
    let mut flags = world.flags();
    flags.extend(["--on-token-expiry", "exit"].map(String::from));
    let process = Process::start(&flags).await;
    world.sandbox.faults().inject(Fault::LauncherStatus { status: 500 });
    world.sandbox.launcher().expire().unwrap();
    let remains = process.remains().await;
    assert_eq!(remains.code, Some(75), "{}{}", remains.stdout, remains.stderr);
    assert!(remains.stdout.contains(" drained "), "{}", remains.stdout);
}
