//! The state of the proxy for programs, and for the page: nothing of any text.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Core;
use super::info::served_name;
use crate::client::{Untrusted, Verdict};
use crate::proxy::error::Failure;
use crate::proxy::link::{State, Upstream, now};
use crate::telemetry::VERSION;

/// The version of this JSON; a number that only grows.
const SCHEMA: u64 = 1;

/// All that there is to know.
pub(super) fn status(core: &Arc<Core>) -> Value {
    let servers: Vec<Value> = core.fleet.servers().iter().map(of_server).collect();
    let picked = core.fleet.pick();
    let exit_code = match &picked {
        Ok(_) => 0,
        Err(_) => servers.iter().filter_map(|server| server["exit_code"].as_u64()).max().unwrap_or(3),
    };
    json!({
        "schema": SCHEMA,
        "version": VERSION,
        "ready": picked.is_ok(),
        "exit_code": exit_code,
        "now": now(),
        "started": core.started,
        "verifies": core.policy.is_some(),
        "policy": core.policy,
        "servers": servers,
        "context": core.repository.as_ref().map(|repository| json!({
            "files": repository.shown(),
            "message": repository.trouble(),
        })),
        "cover": core.cover.as_ref().map(|cover| cover.state()),
        "counts": core.ledger.read(),
    })
}

fn of_server(server: &Arc<Upstream>) -> Value {
    let traffic = server.link.traffic();
    let mut status = json!({
        "address": server.address,
        "sealed_bytes_sent": traffic.sent_bytes(),
        "sealed_bytes_received": traffic.received_bytes(),
        "changes": server.pins.changes(),
    });
    match server.state() {
        State::Starting => {
            status["state"] = json!("starting");
            status["exit_code"] = json!(3);
        }
        State::Down(failure) => {
            status["state"] = json!(failure.code());
            status["message"] = json!(failure.to_string());
            status["exit_code"] = json!(exit_code(&failure));
        }
        State::Ready(warm) => {
            let verdict = warm.held.verdict().map(Verdict::to_json);
            status["state"] = json!(if verdict.is_some() { "verified" } else { "connected" });
            status["exit_code"] = json!(0);
            status["model"] = json!(served_name(&warm.model));
            status["key_since"] = json!(warm.since);
            status["next_check"] = json!(now() + server.until_renewal(&warm).as_secs());
            status["verdict"] = json!(verdict);
        }
    }
    status
}

/// The exit code of `codeseal verify` for it.
fn exit_code(failure: &Failure) -> u8 {
    let untrusted = |reason: &&Untrusted| *failure == Failure::NotVerified(reason.to_string());
    match failure {
        Failure::NotVerified(_) => {
            Untrusted::ALL.iter().find(untrusted).map_or(1, |reason| reason.exit_code())
        }
        Failure::NotConnected(_) => 3,
        Failure::NotAuthentic(_) => 4,
        _ => 1,
    }
}
