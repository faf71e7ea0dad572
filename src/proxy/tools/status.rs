//! `codeseal proxy status`.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use super::AccessToken;
use crate::proxy::answer::rfc3339;
use crate::proxy::tools::blocks::BlockError;
use crate::proxy::verdicts::LogError;
use crate::secret::Secret;

/// How long a proxy on this machine may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a tool prints, and what the process exits with.
#[derive(Debug)]
pub struct ToolReport {
    /// To be printed.
    pub text: String,
    /// 0, or as `codeseal verify` exits.
    pub exit_code: u8,
}

/// Why a tool has nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// No proxy answers.
    #[error("no proxy answers at {0}: start `codeseal proxy`, or give --url")]
    NoProxy(String),
    /// Something else answers there.
    #[error("what answers at {0} is no codeseal proxy, or wants another token")]
    NotAProxy(String),
    /// A configuration file cannot be changed.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A log is not what was written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The program does not know where it is.
    #[error("cannot find out where this program is")]
    Program,
}

impl ToolError {
    /// What the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoProxy(_) => 3,
            Self::NotAProxy(_) | Self::Block(_) | Self::Log(_) => 1,
            Self::Program => 70,
        }
    }
}

/// Asks one proxy.
#[derive(Debug)]
pub(super) struct Asker {
    http: reqwest::Client,
    url: String,
    token: Option<Secret<String>>,
    name: &'static str,
}

impl Asker {
    /// Asks the proxy at `url`.
    pub(super) fn new(url: &str, token: Option<&AccessToken>) -> Result<Self, ToolError> {
        let url = url.trim_end_matches('/').to_owned();
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).tls_certs_only([]).build();
        let http = http.map_err(|_| ToolError::NoProxy(url.clone()))?;
        let token = token.map(|token| Secret::new(token.expose().to_owned()));
        Ok(Self { http, url, token, name: "codeseal" })
    }

    /// The same under another name.
    pub(super) fn called(&self, name: &'static str) -> Self {
        let token = self.token.as_ref().map(|token| Secret::new(token.expose().clone()));
        Self { http: self.http.clone(), url: self.url.clone(), token, name }
    }

    /// Its state.
    pub(super) async fn status(&self) -> Result<Value, ToolError> {
        self.ask(self.http.get(format!("{}/status", self.url))).await
    }

    /// What it answers to `body`.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, ToolError> {
        self.ask(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<Value, ToolError> {
        let no_proxy = |_: reqwest::Error| ToolError::NoProxy(self.url.clone());
        let mut request = request.header(http::header::USER_AGENT, self.name);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let answer = request.send().await.map_err(no_proxy)?.text().await.map_err(no_proxy)?;
        serde_json::from_str(&answer).map_err(|_| ToolError::NotAProxy(self.url.clone()))
    }
}

/// Reports the state.
pub(super) async fn status(asker: &Asker, json: bool) -> Result<ToolReport, ToolError> {
    let status = asker.status().await?;
    let exit_code = status.get("exit_code").and_then(Value::as_u64);
    let exit_code = exit_code.ok_or_else(|| ToolError::NotAProxy(asker.url.clone()))?;
    let text = if json { format!("{status:#}") } else { words(&status, &asker.url) };
    Ok(ToolReport { text, exit_code: u8::try_from(exit_code).unwrap_or(1) })
}

/// The state in some lines.
fn words(status: &Value, url: &str) -> String {
    let mut text = String::new();
    let line =
        |text: &mut String, name: &str, value: &str| writeln!(text, "{name:<12} {value}").unwrap_or(());
    line(&mut text, "proxy", &format!("{url}/, version {}", string(&status["version"])));
    for server in status["servers"].as_array().into_iter().flatten() {
        let state = string(&server["state"]);
        let message =
            server["message"].as_str().map_or(String::new(), |message| format!(": {}", plain(message)));
        line(&mut text, "server", &format!("{}, {state}{message}", string(&server["address"])));
        if let Some(model) = server["model"].as_str() {
            line(&mut text, "model", &plain(model));
            line(&mut text, "next check", &rfc3339(server["next_check"].as_u64().unwrap_or(0)));
        }
    }
    for server in status["servers"].as_array().into_iter().flatten() {
        for change in server["changes"].as_array().into_iter().flatten() {
            let at = rfc3339(change["at"].as_u64().unwrap_or(0));
            let [what, before, after] = ["what", "before", "after"].map(|name| string(&change[name]));
            line(
                &mut text,
                "notice",
                &format!("{at} the server's {what} has changed from {before} to {after}"),
            );
        }
    }
    for file in status["context"]["files"].as_array().into_iter().flatten() {
        let bytes = file["bytes"].as_u64().unwrap_or(0);
        line(&mut text, "context", &format!("{}, {bytes} bytes, in the last prompt", string(&file["path"])));
    }
    let counts = &status["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap_or(0);
    line(
        &mut text,
        "requests",
        &format!(
            "{}, {} cancelled, {} failed, {} answered from an earlier prediction",
            count("requests"),
            count("cancelled"),
            count("failed"),
            count("reused")
        ),
    );
    if let Some(error) = counts["last_error"].as_object() {
        let field = |name: &str| error.get(name).map(string).unwrap_or_default();
        let at = error.get("at").and_then(Value::as_u64).map(rfc3339).unwrap_or_default();
        line(
            &mut text,
            "last error",
            &format!("{at} {} {}: {}", field("endpoint"), field("code"), field("message")),
        );
    }
    let clients = counts["clients"].as_array().map(Vec::as_slice).unwrap_or_default();
    if clients.is_empty() {
        line(&mut text, "clients", "none yet: no request has arrived");
    }
    for client in clients {
        let at = client["at"].as_u64().map(rfc3339).unwrap_or_default();
        let said = [string(&client["client"]), string(&client["endpoint"]), string(&client["outcome"])];
        line(&mut text, "client", &format!("{}, last {at}", said.join(", ")));
    }
    text.truncate(text.trim_end().len());
    text
}

/// A foreign text that can be printed.
pub(super) fn string(value: &Value) -> String {
    plain(value.as_str().unwrap_or_default())
}

/// Foreign text without what could steer a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}
