//! What strangers and the operator's own pipes cannot do: fill the log, stop the server, keep the operator out.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpStream;

use crate::harness::{Answer, PATIENCE, Process, World, http};

async fn get(address: &str, path: &str) -> Answer {
    Answer::read(http().get(format!("http://{address}{path}")).send().await.unwrap()).await
}

#[tokio::test]
async fn a_log_that_is_not_read_stops_neither_requests_nor_the_end() {
    let world = World::start().await;
    let employee = world.employee().await;
    let mut flags = world.flags();
    // A shaped answer takes a second and a half.
    flags.extend(["--stream-shaping", "off"].map(String::from));
    let mut process = Process::start(&flags).await;
    process.stop_reading();
    let client = http();
    let url = |path: &str| format!("http://{}{path}", process.address);
    // Each of these has a line in the log, and the pipe has room for about forty.
    for _ in 0..100 {
        let sealed = employee.seal("/v1/completions", &json!({ "prompt": "x", "max_tokens": 1 }));
        let answer = client.post(url("/v1/completions")).json(&sealed.body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    for _ in 0..2000 {
        assert_eq!(client.get(url("/nope")).send().await.unwrap().status(), 404);
    }
    assert_eq!(get(&process.address, "/livez").await.status, 200);
    let metrics = get(&process.admin_address, "/metrics").await.text;
    assert!(metrics.contains("codeseal_log_lines_dropped_total "), "{metrics}");
    process.signal(Signal::TERM);
    let ended = tokio::time::timeout(PATIENCE, process.child.wait()).await;
    assert_eq!(ended.expect("it ends").unwrap().code(), Some(0));
}

#[tokio::test]
async fn requests_without_a_key_are_counted_and_logged_together() {
    let world = World::start().await;
    let employee = world.employee().await;
    let process = Process::start(&world.flags()).await;
    let url = format!("http://{}/v1/completions", process.address);
    for _ in 0..20 {
        assert_eq!(get(&process.address, "/nope").await.status, 404);
        assert_eq!(get(&process.address, "/generate").await.status, 405);
        assert_eq!(http().post(&url).body("{").send().await.unwrap().status(), 400);
        let forged = employee.envelope("gAAAAA==");
        assert_eq!(http().post(&url).json(&forged).send().await.unwrap().status(), 400);
        assert_eq!(get(&process.address, "/livez").await.status, 200);
    }
    let sealed = employee.seal("/v1/completions", &json!({ "prompt": "x", "max_tokens": 1 }));
    for status in [200, 409] {
        assert_eq!(http().post(&url).json(&sealed.body).send().await.unwrap().status(), status);
    }
    let metrics = get(&process.admin_address, "/metrics").await.text;
    for labels in [
        "endpoint=\"other\",code=\"not_found\"} 20",
        "endpoint=\"other\",code=\"method_not_allowed\"} 20",
        "endpoint=\"completions\",code=\"invalid_request\"} 20",
        "endpoint=\"completions\",code=\"envelope_rejected\"} 20",
    ] {
        assert!(metrics.contains(labels), "{labels}: {metrics}");
    }
    process.signal(Signal::TERM);
    let log = process.remains().await.stdout;
    assert_eq!(log.matches(" request_finished ").count(), 1, "{log}");
    assert!(log.contains("outcome=ok"), "{log}");
    let together: Vec<u64> = log
        .lines()
        .filter_map(|line| line.split_once(" requests_unauthenticated requests=")?.1.parse().ok())
        .collect();
    assert_eq!((together.len(), together.iter().sum::<u64>()), (2, 81), "{log}");
}

#[tokio::test]
async fn the_operator_is_answered_while_clients_hold_every_connection() {
    let world = World::start().await;
    let mut few = world.flags();
    few.extend(["--max-connections", "4"].map(String::from));
    for (flags, is_limited) in [(world.flags(), true), (few, false)] {
        let process = Process::start_with_descriptors(&flags, 64).await;
        let mut idle = Vec::new();
        for _ in 0..180 {
            idle.push(TcpStream::connect(&process.address).await.unwrap());
        }
        for path in ["/livez", "/readyz", "/metrics"] {
            let answer = tokio::time::timeout(PATIENCE, get(&process.admin_address, path)).await;
            assert!(answer.is_ok_and(|answer| answer.status == 200 || path == "/readyz"), "{path}");
        }
        drop(idle);
        assert_eq!(get(&process.address, "/livez").await.status, 200);
        process.signal(Signal::TERM);
        let remains = process.remains().await;
        assert_eq!(remains.code, Some(0), "{}", remains.stdout);
        assert_eq!(remains.stdout.contains(" connections_limited "), is_limited, "{}", remains.stdout);
    }
}

/// A connection that sends nothing is closed soon, so that the few of the operator's are not used up for long.
#[tokio::test]
async fn idle_connections_do_not_use_up_the_operators() {
    let world = World::start().await;
    let mut config = world.config();
    config.limits.header_timeout = Duration::from_millis(200);
    let server = crate::harness::Server::start(config).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(TcpStream::connect(server.service.admin_address()).await.unwrap());
    }
    assert!(server.metrics().await.contains("codeseal_ready 1"));
}

#[tokio::test]
async fn the_log_and_the_metrics_say_what_the_model_runs_on() {
    let world = World::start().await;
    let mut flags = world.flags();
    flags.extend(["--device", "auto", "--quantize", "q8_0"].map(String::from));
    let process = Process::start(&flags).await;
    let metrics = get(&process.admin_address, "/metrics").await.text;
    let info = metrics.lines().find(|line| line.starts_with("codeseal_model_info{")).unwrap().to_owned();
    assert!(info.contains("device=\"cpu\"") && info.contains("weights=\"q8_0\""), "{info}");
    process.signal(Signal::TERM);
    let log = process.remains().await.stdout;
    let line = log.lines().find(|line| line.contains(" model_runs ")).unwrap();
    assert!(line.contains(" device=cpu ") && line.contains(" weights=q8_0"), "{line}");
    let kernels = line.split_once(" kernels=").unwrap().1.split(' ').next().unwrap();
    let candle = crate::harness::backend() == codeseal::engine::BackendChoice::Candle;
    let (backend, names) =
        if candle { ("candle", &["candle"][..]) } else { ("kernels", &["avx512", "avx2", "portable"][..]) };
    assert!(names.contains(&kernels), "{line}");
    assert!(line.contains(&format!(" backend={backend}")), "{line}");
    assert!(info.contains(&format!("backend=\"{backend}\"")), "{info}");
    assert!(info.contains(&format!("kernels=\"{kernels}\"")), "{info}");
    assert!(cfg!(feature = "cuda") || log.contains(" device_fallback reason=built_without_cuda"), "{log}");
}
