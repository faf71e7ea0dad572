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
async fn whether_another_has_asked_the_same_cannot_be_told_from_the_time_it_takes() {
    let world = World::start().await;
    let server = world.server().await;
    let victim = world.employee().await;
    let secret = prompt(0);
    time(&server, &victim, &secret).await;

    let (mut guesses, mut others, mut own) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 1..=PAIRS {
        // A spy has a key of his own for each try: what he asked before, he would find in his own cache.
        let spy = world.employee().await;
        time(&server, &spy, "x").await;
        let before = hits(&server.metrics().await);
        let other = prompt(pair);
        // In turn, so that whatever drifts does not favour one of them.
        if pair % 2 == 0 {
            guesses.push(time(&server, &spy, &secret).await);
            others.push(time(&server, &spy, &other).await);
        } else {
            others.push(time(&server, &spy, &other).await);
            guesses.push(time(&server, &spy, &secret).await);
        }
        assert_eq!(hits(&server.metrics().await), before, "a block was shared");
        own.push(time(&server, &victim, &secret).await);
    }
    let [guess, other, own] = [guesses, others, own].map(median);
    assert!(
        guess > other.mul_f64(0.75),
        "{guess:?} for what another has asked, {other:?} for what nobody has"
    );
    assert!(own < other.mul_f64(0.75), "the test sees no hits: {own:?} and {other:?}");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
