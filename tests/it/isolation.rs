//! What one employee can learn of another's prompts from how soon answers come: nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Employee, Server, World};

/// How often the two are compared.
const PAIRS: usize = 12;

/// About a hundred tokens, all others for each `number`.
fn prompt(number: usize) -> String {
    let line = |n: usize| format!("limit_{number}_{n} = compute({n}, {number})\n");
    (0..6).map(line).collect()
}

async fn time(server: &Server, employee: &Employee, prompt: &str) -> Duration {
    let started = Instant::now();
    let (status, body) =
        server.ask(employee, "/v1/completions", json!({ "prompt": prompt, "max_tokens": 1 })).await;
    assert_eq!(status, 200, "{body}");
    started.elapsed()
}

fn hits(metrics: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("codeseal_prefix_cache_hits_total "));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn times_do_not_tell_whether_another_client_sent_the_same_prompt() {
    let world = World::start().await;
    let server = world.server().await;
    let victim = world.employee().await;
    let secret = prompt(0);
    time(&server, &victim, &secret).await;

    let (mut same, mut others, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 1..=PAIRS {
        // The attacker has a new key for each try: otherwise their own earlier requests would be in their cache.
        let spy = world.employee().await;
        time(&server, &spy, "x").await;
        let before = hits(&server.metrics().await);
        let other = prompt(pair);
        // In turn, so that drift of the machine does not favour one of them.
        if pair % 2 == 0 {
            same.push(time(&server, &spy, &secret).await);
            others.push(time(&server, &spy, &other).await);
        } else {
            others.push(time(&server, &spy, &other).await);
            same.push(time(&server, &spy, &secret).await);
        }
        assert_eq!(hits(&server.metrics().await), before, "a block was shared");
        own.push(time(&server, &victim, &secret).await);
    }
    let [same, other, own] = [same, others, own].map(median);
    assert!(same > other.mul_f64(0.75), "{same:?} for the prompt of another client, {other:?} for a new one");
    assert!(own < other.mul_f64(0.75), "the test sees no hits: {own:?} and {other:?}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
