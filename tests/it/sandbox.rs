//! The local Confidential Space, asked as Google's clients would ask it.

mod faults;
mod flow;
mod kms;
mod launcher;
mod versions;
mod wire;

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use codeseal::sandbox::{Counts, Sandbox, SandboxConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::wire::{Answer, Request};

/// Longer than anything here takes, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    sandbox: Sandbox,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let dir = TempDir::new().unwrap();
        let mut config = SandboxConfig::for_tests(dir.path().join("launcher"));
        change(&mut config);
        Self { sandbox: Sandbox::start(config).await.unwrap(), dir }
    }

    fn token(&self) -> String {
        std::fs::read_to_string(self.sandbox.token_file()).unwrap()
    }

    async fn send(&self, request: Request) -> Answer {
        let address = self.sandbox.endpoint().strip_prefix("http://").unwrap();
        wire::http1(tokio::net::TcpStream::connect(address).await.unwrap(), request).await
    }

    /// The token exchange, as the auth library writes it.
    async fn exchange(&self, subject_token: &str) -> Answer {
        let audience = self.sandbox.wip_audience().to_owned();
        self.send(Request::post("/v1/token", wire::exchange_form(&audience, subject_token))).await
    }

    /// The access token for the workload's attestation token.
    async fn federated(&self) -> String {
        self.exchange(&self.token()).await.ok()["access_token"].as_str().unwrap().to_owned()
    }

    async fn impersonate(&self, account: &str, token: &str) -> Answer {
        let path = format!("/v1/projects/-/serviceAccounts/{account}:generateAccessToken");
        let body = json!({"scope": ["https://www.googleapis.com/auth/cloud-platform"], "lifetime": "3600s"});
        self.send(Request::post(&path, body.to_string()).bearer(token)).await
    }

    async fn kms(&self, verb: &str, token: Option<&str>, body: Value) -> Answer {
        let path = format!("/v1/{}:{verb}?%24alt=json%3Benum-encoding%3Dint", self.sandbox.kms_key());
        let request = Request::post(&path, body.to_string());
        self.send(token.into_iter().fold(request, Request::bearer)).await
    }

    /// The ciphertext of `plaintext`, which every caller may request.
    async fn encrypt(&self, plaintext: &str) -> String {
        let answer = self.kms("encrypt", None, json!({"plaintext": BASE64_STANDARD.encode(plaintext)})).await;
        answer.ok()["ciphertext"].as_str().unwrap().to_owned()
    }

    async fn decrypt(&self, token: &str, ciphertext: &str) -> Answer {
        self.kms("decrypt", Some(token), json!({"ciphertext": ciphertext})).await
    }

    async fn until(&self, reached: impl FnMut(&Counts) -> bool) {
        tokio::time::timeout(PATIENCE, self.sandbox.ledger().until(reached)).await.unwrap();
    }
}
