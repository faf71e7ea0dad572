//! `codeseal proxy` as editors see it: a local Confidential Space, a server, and the proxy in front of it.

mod apis;
mod between;
mod clients;
mod command;
mod context;
mod cover;
mod errors;
mod fleet;
mod guard;
mod keystrokes;
mod log;
mod lying;
mod memory;
mod offline;
mod page;
mod program;
mod schema;
mod scripted;
mod service;
mod session;
mod start;
mod status;
mod stream;
mod tools;
mod typing;
mod verify;

use std::time::Duration;

use codeseal::client::Origin;
use codeseal::keys::{Endpoint, WrapConfig};
use codeseal::proxy::{Proxy, ProxyConfig, Timing};
use serde_json::Value;

use crate::harness::{Answer, Server, World, http};

/// A proxy with a server behind it.
pub(crate) struct Desk {
    pub(crate) world: World,
    pub(crate) server: Server,
    pub(crate) proxy: Proxy,
    pub(crate) url: String,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        Self::with(|_| ()).await
    }

    /// One whose proxy is configured first.
    pub(crate) async fn with(change: impl FnOnce(&mut ProxyConfig)) -> Self {
        let world = World::start().await;
        let server = world.server().await;
        let mut config = config(&world, &server.url(""));
        change(&mut config);
        let proxy = Proxy::start(config).await.unwrap();
        proxy.ready().await;
        let url = url(&proxy);
        Self { world, server, proxy, url }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        post(&self.url, path, body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::read(http().get(format!("{}{path}", self.url)).send().await.unwrap()).await
    }

    /// The text that the server continues `body` with, asked without the proxy.
    pub(crate) async fn expected(&self, body: Value) -> String {
        let employee = self.world.employee().await;
        let (status, body) = self.server.ask(&employee, "/v1/completions", body).await;
        assert_eq!(status, 200, "{body}");
        body["choices"][0]["text"].as_str().unwrap().to_owned()
    }
}

/// A proxy for the server at `server`, on any free port, with short pauses.
pub(crate) fn config(world: &World, server: &str) -> ProxyConfig {
    let server: Origin = server.parse().unwrap();
    let endpoint = Endpoint::Sandbox(world.sandbox.endpoint().to_owned());
    let keys = WrapConfig { key: world.sandbox.kms_key().parse().unwrap(), endpoint };
    let timing = Timing {
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(100),
        ..Timing::default()
    };
    ProxyConfig { timing, ..ProxyConfig::for_server(server, keys) }
}

pub(crate) fn url(proxy: &Proxy) -> String {
    format!("http://{}", proxy.addresses().first().unwrap())
}

pub(crate) async fn post(url: &str, path: &str, body: &Value) -> Answer {
    let request = http().post(format!("{url}{path}")).body(body.to_string());
    Answer::read(request.send().await.unwrap()).await
}
