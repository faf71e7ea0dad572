//! What drivers talk to while they run: they report what a client got, and wait until the server works or has stopped.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::scenes::{Scene, Scenes};
use crate::harness::PATIENCE;

/// Takes the reports of one driver.
pub(super) struct Conductor {
    pub(super) url: String,
    reports: Arc<Mutex<Vec<Value>>>,
    _serving: AbortOnDropHandle<()>,
}

struct Shared {
    scenes: Arc<Scenes>,
    reports: Arc<Mutex<Vec<Value>>>,
    /// Requests that each scene's proxy had counted before the last report.
    counted: tokio::sync::Mutex<Vec<u64>>,
}

impl Conductor {
    pub(super) async fn start(scenes: Arc<Scenes>) -> Self {
        let reports = Arc::new(Mutex::new(Vec::new()));
        let counted = tokio::sync::Mutex::new(counts(&scenes).await);
        let shared = Arc::new(Shared { scenes, reports: Arc::clone(&reports), counted });
        let router =
            Router::new().route("/report", post(report)).route("/wait/{load}", get(wait)).with_state(shared);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, reports, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(super) fn reports(&self) -> Vec<Value> {
        self.reports.lock().unwrap().clone()
    }
}

async fn counts(scenes: &Scenes) -> Vec<u64> {
    let mut counts = Vec::new();
    for scene in Scene::ALL {
        counts.push(scenes.status(scene).await["counts"]["requests"].as_u64().unwrap());
    }
    counts
}

fn since(before: &[u64], now: &[u64]) -> u64 {
    now.iter().zip(before).map(|(now, before)| now - before).sum()
}

/// Keeps a report, with the number of requests that reached the proxies since the one before.
async fn report(State(shared): State<Arc<Shared>>, Json(mut report): Json<Value>) {
    let mut counted = shared.counted.lock().await;
    let now = counts(&shared.scenes).await;
    report["requests"] = since(&counted, &now).into();
    *counted = now;
    shared.reports.lock().unwrap().push(report);
}

/// Answers when the server works on a request (`running`), or on none (`idle`), and `requests` have reached the proxies.
///
/// A client that ends one request with the next needs the number: the server may still work on the one before. The query
/// is `requests=NUMBER`, counted since the last report.
async fn wait(State(shared): State<Arc<Shared>>, Path(load): Path<String>, RawQuery(query): RawQuery) {
    let number = query.as_deref().and_then(|query| query.strip_prefix("requests="));
    let requests: u64 = number.map_or(0, |number| number.parse().unwrap());
    let running = match load.as_str() {
        "running" => "codeseal_num_requests_running 1",
        "idle" => "codeseal_num_requests_running 0",
        _ => panic!("no such load: {load}"),
    };
    let poll = || tokio::time::sleep(Duration::from_millis(10));
    let waiting = async {
        while requests > 0 && since(&shared.counted.lock().await, &counts(&shared.scenes).await) < requests {
            poll().await;
        }
        // Nothing else between: a short answer is there for some hundredths of a second.
        while !shared.scenes.server.metrics().await.contains(running) {
            poll().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "not in time: {running}");
}
