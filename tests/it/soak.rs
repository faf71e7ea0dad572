//! Clients that come, leave, run out of time and hang up in the middle: nothing may be left of them.
//!
//! `cargo test --release --test it soak -- --include-ignored` goes on for ten minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::runtime::Handle;

use crate::harness::{Employee, Server, World, until};

const PATH: &str = "/v1/completions";
const CLIENTS: usize = 8;

/// Numbers that are the same every time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0xD120_2E7A_29A5_B1F5).wrapping_add(0x9E37_79B9_7F4A_7C15);
        (self.0 >> 33) % limit
    }
}

#[tokio::test]
async fn what_clients_do_leaves_nothing_behind() {
    soak(Duration::from_secs(4)).await;
}

#[tokio::test]
#[ignore = "takes ten minutes"]
async fn what_clients_do_for_ten_minutes_leaves_nothing_behind() {
    soak(Duration::from_secs(600)).await;
}

async fn soak(duration: Duration) {
    let world = World::start().await;
    let mut config = world.config();
    config.limits.request_timeout = Duration::from_millis(400);
    config.limits.max_replay_entries = 10_000_000;
    let mut server = Server::start(config).await;
    // A connection that is kept is a task.
    server.http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let server = Arc::new(server);
    let employees: Vec<Arc<Employee>> =
        join_all((0..3).map(|_| world.employee())).await.into_iter().map(Arc::new).collect();
    // What any first request leaves, and what grows to its full size once, is not counted.
    run(&server, &employees, duration / 4, 1).await;
    let (tasks, memory) = rest(&server).await;
    let ends = run(&server, &employees, duration, 2).await;
    let (tasks_after, memory_after) = rest(&server).await;
    assert!(ends.iter().all(|&count| count > 0), "some ways to leave were never tried: {ends:?}");
    assert!(tasks_after <= tasks, "{tasks} tasks before, {tasks_after} after");
    let mib = |bytes: usize| bytes >> 20;
    eprintln!(
        "ends {ends:?}; tasks {tasks} and {tasks_after}; {} and {} MiB",
        mib(memory),
        mib(memory_after)
    );
    // Other tests run in the same process.
    #[cfg(not(debug_assertions))]
    assert!(mib(memory_after) <= mib(memory) + 16, "{} MiB before, {} after", mib(memory), mib(memory_after));
}

/// How often each way to end was taken: answered, refused, timed out, cancelled, left a stream, cut off.
async fn run(server: &Arc<Server>, employees: &[Arc<Employee>], duration: Duration, seed: u64) -> [usize; 6] {
    let ends: Arc<[AtomicUsize; 6]> = Arc::default();
    let deadline = Instant::now() + duration;
    let clients = (0..CLIENTS).map(|client| {
        let (server, ends) = (Arc::clone(server), Arc::clone(&ends));
        let employee = Arc::clone(&employees[client % employees.len()]);
        tokio::spawn(async move {
            let mut dice = Dice(seed * 1000 + client as u64);
            while Instant::now() < deadline {
                let end = client_comes(&server, &employee, &mut dice).await;
                ends[end].fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    for client in join_all(clients).await {
        client.unwrap();
    }
    std::array::from_fn(|end| ends[end].load(Ordering::Relaxed))
}

async fn client_comes(server: &Server, employee: &Employee, dice: &mut Dice) -> usize {
    let prompt = "x = compute(1, 2)\n".repeat(1 + dice.below(12) as usize);
    let n = 1 + dice.below(3);
    let long = json!({ "prompt": prompt, "max_tokens": 4000, "n": n, "temperature": 1.0, "stop": ["never"] });
    match dice.below(5) {
        0 => {
            let body = json!({ "prompt": prompt, "max_tokens": 1 + dice.below(8), "n": n });
            let sealed = employee.seal(PATH, &body);
            let answer = server.post(PATH, &sealed.body).await;
            usize::from(answer.status != 200 || employee.open(sealed.id, &answer).0 != 200)
        }
        1 => {
            let sealed = employee.seal(PATH, &long);
            let answer = server.post(PATH, &sealed.body).await;
            match answer.status {
                200 if employee.open(sealed.id, &answer).0 == 504 => 2,
                _ => 1,
            }
        }
        2 => {
            let sealed = employee.seal(PATH, &long);
            let asking = server.post(PATH, &sealed.body);
            tokio::time::timeout(Duration::from_millis(dice.below(60)), asking).await.map_or(3, |_| 1)
        }
        3 => {
            let mut body = long;
            body["stream"] = json!(true);
            let sealed = employee.seal(PATH, &body);
            let request = server.http.post(server.url(PATH)).json(&sealed.body);
            let mut stream = request.send().await.unwrap().bytes_stream();
            for _ in 0..dice.below(6) {
                stream.next().await.transpose().unwrap();
            }
            4
        }
        _ => {
            let body = employee.seal(PATH, &long).body.to_string();
            let head = format!("POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            let mut connection = TcpStream::connect(server.service.address()).await.unwrap();
            connection.write_all(head.as_bytes()).await.unwrap();
            let part = dice.below(body.len() as u64) as usize;
            connection.write_all(&body.as_bytes()[..part]).await.unwrap();
            5
        }
    }
}

/// Waits until the server has nothing to do, and returns the tasks of this runtime and the bytes of this process.
async fn rest(server: &Server) -> (usize, usize) {
    until("nothing runs and no block is held", async || {
        let metrics = server.metrics().await;
        [
            "codeseal_num_requests_running 0",
            "codeseal_num_requests_waiting 0",
            "codeseal_kv_cache_usage_perc 0",
        ]
        .iter()
        .all(|line| metrics.lines().any(|other| other.trim_end_matches(".0") == *line))
    })
    .await;
    // Connections are closed a moment after their answers.
    let mut fewest = usize::MAX;
    until("tasks have ended", async || {
        let tasks = Handle::current().metrics().num_alive_tasks();
        let settled = tasks >= fewest;
        fewest = fewest.min(tasks);
        settled
    })
    .await;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    (fewest, pages * rustix::param::page_size())
}
