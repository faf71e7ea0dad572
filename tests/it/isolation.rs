//! What one employee can learn of another's prompts from how soon answers come: nothing.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Employee, Server, World};

/// How often the two are compared.
const PAIRS: usize = 12;
/// A coin that always falls on the same side is none: with 12 throws it happens once in 4,096 times.
const TELLING: usize = 12;

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

    let (mut guess_faster, mut own_faster) = (0, 0);
    for pair in 1..=PAIRS {
        // A spy has a key of his own for each try: what he asked before, he would find in his own cache.
        let spy = world.employee().await;
        time(&server, &spy, "x").await;
        let before = hits(&server.metrics().await);
        let other = prompt(pair);
        // In turn, so that whatever drifts does not favour one of them.
        let (guess, other) = if pair % 2 == 0 {
            let guess = time(&server, &spy, &secret).await;
            (guess, time(&server, &spy, &other).await)
        } else {
            let other = time(&server, &spy, &other).await;
            (time(&server, &spy, &secret).await, other)
        };
        assert_eq!(hits(&server.metrics().await), before, "a block was shared");
        guess_faster += usize::from(guess < other);
        // The same test sees a hit where there is one.
        own_faster += usize::from(time(&server, &victim, &secret).await < other);
    }
    assert!(guess_faster < TELLING, "{guess_faster} of {PAIRS}");
    assert!(own_faster >= TELLING, "the test sees no hits: {own_faster} of {PAIRS}");
}
