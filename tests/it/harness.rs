//! Starts the parts on loopback for the other tests, and plays the employee by hand.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use codeseal::attestation::{OnTokenExpiry, Profile};
use codeseal::engine::{BackendChoice, EngineConfig, Quantize};
use codeseal::keys::{CacheLimits, Endpoint, KmsConfig, Timeouts, WrapConfig, Wrapper};
use codeseal::protocol::{Call, Dek, Frame, FrameReader, Reply, RequestId, ServerId, Token, WrappedDek};
use codeseal::sandbox::{Sandbox, SandboxConfig};
use codeseal::server::{Logging, ModelOrigin, RequestLimits, ServerConfig};
use codeseal::server::{Service, Shaping};
use codeseal::telemetry::{LogFormat, LogLevel};
use rustix::process::Signal;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

/// What no condition on loopback takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A local Confidential Space.
pub(crate) struct World {
    pub(crate) sandbox: Sandbox,
    _dir: TempDir,
}

/// A server in this process, on its own two ports.
pub(crate) struct Server {
    pub(crate) service: Service,
    pub(crate) http: reqwest::Client,
}

/// An employee with one DEK.
pub(crate) struct Employee {
    pub(crate) dek: Dek,
    pub(crate) wrapped: WrappedDek,
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<u64>,
    pub(crate) text: String,
}

/// Keys and values of one whole context, or of some ordinary requests: tests run many servers at once.
const KV_CACHE_BYTES: u64 = 96 << 20;

/// A prompt whose greedy answer is more of the same, to the limit of tokens: also before a hole, and as the beginning of one.
pub(crate) const ENDLESS: &str = "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.";

/// The sealed paths of the API.
pub(crate) const PATHS: [&str; 2] = ["/v1/completions", "/v1/chat/completions"];

/// A sealed call, ready to be sent, again if need be.
pub(crate) struct Sealed {
    pub(crate) id: RequestId,
    pub(crate) body: Value,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// One whose configuration is changed first.
    pub(crate) async fn with(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = SandboxConfig::for_tests(dir.path().join("cs"));
        change(&mut config);
        Self { sandbox: Sandbox::start(config).await.unwrap(), _dir: dir }
    }

    /// A configuration for this world: the embedded model, ports that are free, short waits.
    pub(crate) fn config(&self) -> ServerConfig {
        let sandbox = &self.sandbox;
        let any = "127.0.0.1:0".parse().unwrap();
        ServerConfig {
            listen: any,
            admin_listen: any,
            model: ModelOrigin::Fetched { source: tiny().to_str().unwrap().parse().unwrap(), cache: tiny() },
            quantize: Quantize::None,
            kms: KmsConfig {
                key: sandbox.kms_key().parse().unwrap(),
                wip_audience: sandbox.wip_audience().parse().unwrap(),
                token_file: sandbox.token_file().to_owned(),
                token_socket: Some(sandbox.socket().to_owned()),
                impersonate: None,
                endpoint: Endpoint::Sandbox(sandbox.endpoint().to_owned()),
                timeouts: Timeouts {
                    pause_after_failure: Duration::from_millis(50),
                    backoff: Duration::from_millis(10),
                    ..Timeouts::default()
                },
                cache: CacheLimits::default(),
            },
            profile: Profile::Sandbox,
            on_token_expiry: OnTokenExpiry::Wait,
            shaping: Shaping::Off,
            engine: EngineConfig {
                kv_cache_bytes: Some(KV_CACHE_BYTES),
                backend: backend(),
                ..EngineConfig::new(4, 4)
            },
            limits: RequestLimits {
                max_new_tokens: 16,
                max_body_bytes: 1 << 20,
                max_connections: 64,
                max_replay_entries: 1000,
                max_attestations_per_minute: 6000,
                header_timeout: PATIENCE,
                body_timeout: PATIENCE,
                write_timeout: PATIENCE,
                request_timeout: PATIENCE * 2,
            },
            drain_limit: Duration::from_secs(20),
            watch_interval: Duration::from_millis(100),
            logging: Logging { format: LogFormat::Text, level: LogLevel::Info },
        }
    }

    /// The flags that make `codeseal-server` a server of this world.
    pub(crate) fn flags(&self) -> Vec<String> {
        let sandbox = &self.sandbox;
        [
            ("--listen", "127.0.0.1:0"),
            ("--admin-listen", "127.0.0.1:0"),
            ("--model", tiny().to_str().unwrap()),
            ("--kms-key", sandbox.kms_key()),
            ("--wip-audience", sandbox.wip_audience()),
            ("--attestation-token", sandbox.token_file().to_str().unwrap()),
            ("--attestation-socket", sandbox.socket().to_str().unwrap()),
            ("--sandbox-endpoint", sandbox.endpoint()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()])
        .collect()
    }

    /// A server of this world that takes requests.
    pub(crate) async fn server(&self) -> Server {
        Server::start(self.config()).await
    }

    pub(crate) async fn employee(&self) -> Employee {
        let key = self.sandbox.kms_key().parse().unwrap();
        let endpoint = Endpoint::Sandbox(self.sandbox.endpoint().to_owned());
        let wrapper = Wrapper::connect(WrapConfig { key, endpoint }).await.unwrap();
        let dek = Dek::generate().unwrap();
        let wrapped = wrapper.wrap(&dek).await.unwrap();
        Employee { dek, wrapped }
    }
}

impl Server {
    pub(crate) async fn start(config: ServerConfig) -> Self {
        let mut service = Service::start(config).await.unwrap();
        service.ready().await.unwrap();
        let server = Self { service, http: http() };
        server.until_ready().await;
        server
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.service.address())
    }

    pub(crate) async fn until_ready(&self) {
        until("the server is ready", async || self.get("/readyz").await.status == 200).await;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::read(self.http.get(self.url(path)).send().await.unwrap()).await
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.service.admin_address());
        self.http.get(url).send().await.unwrap().text().await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.http.post(self.url(path)).json(body);
        Answer::read(request.send().await.unwrap()).await
    }

    /// Seals `body`, sends it and opens the answer.
    pub(crate) async fn ask(&self, employee: &Employee, path: &str, body: Value) -> (u16, Value) {
        let sealed = employee.seal(path, &body);
        let answer = self.post(path, &sealed.body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        employee.open(sealed.id, &answer)
    }

    /// The text that `/v1/completions` continues `prompt` with.
    pub(crate) async fn complete(&self, employee: &Employee, prompt: &str) -> String {
        let (status, body) = self.ask(employee, "/v1/completions", json!({ "prompt": prompt })).await;
        assert_eq!(status, 200, "{body}");
        body["choices"][0]["text"].as_str().unwrap().to_owned()
    }
}

impl Employee {
    /// The body of a sealed call.
    pub(crate) fn seal(&self, path: &str, body: &Value) -> Sealed {
        self.seal_for(path, None, body)
    }

    /// The same for one server only.
    pub(crate) fn seal_for(&self, path: &str, server: Option<ServerId>, body: &Value) -> Sealed {
        let id = RequestId::generate().unwrap();
        let body = RawValue::from_string(body.to_string()).unwrap();
        let plaintext = Call { id, path, server, body: &body }.encode().unwrap();
        Sealed { id, body: self.envelope(&self.dek.for_requests(path).seal(plaintext.expose())) }
    }

    /// `{"wrapped_dek", "ciphertext"}`
    pub(crate) fn envelope(&self, ciphertext: &str) -> Value {
        json!({ "wrapped_dek": self.wrapped.to_base64(), "ciphertext": ciphertext })
    }

    /// The body of `/generate`.
    pub(crate) fn prompt(&self, prompt: &[u8]) -> Value {
        self.envelope(&BASE64_STANDARD.encode(self.dek.seal(prompt)))
    }

    /// Status and body of a sealed answer to the call `id`.
    pub(crate) fn open(&self, id: RequestId, answer: &Answer) -> (u16, Value) {
        let plaintext = self.unseal(answer.json()["ciphertext"].as_str().unwrap());
        let reply: Reply<Value> = serde_json::from_slice(&plaintext).unwrap();
        assert_eq!(reply.id, id);
        (reply.status, reply.body)
    }

    /// The text of an answer of `/generate`.
    pub(crate) fn open_generated(&self, answer: &Answer) -> String {
        assert_eq!(answer.status, 200, "{}", answer.text);
        let token = answer.json()["generated_code_ciphertext"].as_str().unwrap().to_owned();
        let plaintext = self.unseal(&String::from_utf8(BASE64_STANDARD.decode(token).unwrap()).unwrap());
        String::from_utf8(plaintext).unwrap()
    }

    /// The frames of a stream that must be whole.
    pub(crate) fn open_stream(&self, id: RequestId, stream: &str) -> Vec<Frame> {
        let mut reader = FrameReader::new(id);
        let frames = stream.split_terminator("\n\n").map(|event| {
            let token = event.strip_prefix("data: ").unwrap();
            reader.accept(&self.unseal(token)).unwrap()
        });
        let frames = frames.collect();
        reader.finish().unwrap();
        frames
    }

    /// The plaintext of any token of this employee's, whatever its path and direction.
    pub(crate) fn unseal(&self, token: &str) -> Vec<u8> {
        let token = Token::parse(token.as_bytes()).unwrap();
        let keys = PATHS.iter().flat_map(|path| [self.dek.for_answers(path), self.dek.for_requests(path)]);
        let mut opened = keys.filter_map(|key| key.open(&token).ok()).chain(self.dek.open(&token).ok());
        opened.next().expect("the token is this employee's").expose().clone()
    }
}

impl Answer {
    pub(crate) async fn read(response: reqwest::Response) -> Self {
        let retry_after = response.headers().get("retry-after");
        Self {
            status: response.status().as_u16(),
            retry_after: retry_after.map(|seconds| seconds.to_str().unwrap().parse().unwrap()),
            text: response.text().await.unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// The code of an error in the API's shape.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        assert!(body["error"]["type"].is_string() && body["error"]["message"].is_string(), "{body}");
        body["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// The embedded model's directory.
pub(crate) fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/tiny")
}

/// A client that goes nowhere but to loopback.
pub(crate) fn http() -> reqwest::Client {
    // No certificates: they are parsed for each client, and only TLS needs them.
    reqwest::Client::builder().no_proxy().tls_certs_only([]).timeout(PATIENCE).build().unwrap()
}

/// Waits for a condition rather than for a time.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "not in time: {what}");
}

/// `codeseal-server` as a process.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: String,
    pub(crate) admin_address: String,
    stdout: BufReader<ChildStdout>,
    stderr: ChildStderr,
    log: String,
}

/// What a process left behind.
pub(crate) struct Remains {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts it and waits for the line that says where it listens.
    pub(crate) async fn start(flags: &[String]) -> Self {
        Self::spawn(command(flags)).await
    }

    /// The same, with at most this many open files.
    pub(crate) async fn start_with_descriptors(flags: &[String], descriptors: u32) -> Self {
        let mut command = Command::from(clean("sh"));
        let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_codeseal-server")]).args(flags);
        Self::spawn(noisy(command)).await
    }

    /// Reads no more of what it writes, and gives both pipes as little room as the system allows.
    pub(crate) fn stop_reading(&self) {
        rustix::pipe::fcntl_setpipe_size(self.stdout.get_ref(), 1).unwrap();
        rustix::pipe::fcntl_setpipe_size(&self.stderr, 1).unwrap();
    }

    async fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut process = Self {
            stdout: BufReader::new(child.stdout.take().unwrap()),
            stderr: child.stderr.take().unwrap(),
            child,
            address: String::new(),
            admin_address: String::new(),
            log: String::new(),
        };
        let line = process.until_logged("admin_listen").await;
        let field = |name: &str| match serde_json::from_str::<Value>(&line) {
            Ok(json) => json[name].as_str().unwrap().to_owned(),
            Err(_) => {
                let mut fields = line.split_whitespace().filter_map(|field| field.split_once('='));
                fields.find(|(known, _)| *known == name).unwrap().1.to_owned()
            }
        };
        process.address = field("listen");
        process.admin_address = field("admin_listen");
        process
    }

    /// The next line of the log that has `needle` in it.
    pub(crate) async fn until_logged(&mut self, needle: &str) -> String {
        let reading = async {
            loop {
                let mut line = String::new();
                assert_ne!(self.stdout.read_line(&mut line).await.unwrap(), 0, "no {needle}: {}", self.log);
                self.log.push_str(&line);
                if line.contains(needle) {
                    break line;
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the line is logged")
    }

    /// Runs a copy of the program to its end as a user who has no rights; only root can.
    pub(crate) async fn run_unprivileged(program: &Path, flags: &[String], home: &Path) -> Remains {
        let mut command = Command::from(clean(program));
        command.args(flags).current_dir(home).uid(65532).gid(65532).stdin(Stdio::null());
        let output = tokio::time::timeout(PATIENCE, command.kill_on_drop(true).output()).await;
        let output = output.expect("the process ends").unwrap();
        Remains {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn remains(mut self) -> Remains {
        let mut stderr = String::new();
        let ending = async {
            self.stdout.read_to_string(&mut self.log).await.unwrap();
            self.stderr.read_to_string(&mut stderr).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = tokio::time::timeout(PATIENCE, ending).await.expect("the process ends");
        Remains { code: status.code(), stdout: self.log, stderr }
    }
}

/// Runs `codeseal-server` to its end.
pub(crate) async fn run_server(flags: &[String]) -> Remains {
    let output = tokio::time::timeout(PATIENCE, command(flags).output()).await;
    let output = output.expect("the process ends").unwrap();
    Remains {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// What a program needs of the environment to run at all, and the backend that the suite is run with.
const NEEDED: [&str; 5] = [BACKEND, "LD_LIBRARY_PATH", "LLVM_PROFILE_FILE", "PATH", "TMPDIR"];
/// Runs the whole suite with another backend: the one setting that reaches the tests, because each must pass with each.
const BACKEND: &str = "CODESEAL_BACKEND";

/// The backend that the suite is run with.
pub(crate) fn backend() -> BackendChoice {
    std::env::var(BACKEND).map_or(BackendChoice::Auto, |name| name.parse().expect(BACKEND))
}

/// A program that sees nothing of the developer's environment: no settings, no home, no proxies, no credentials.
pub(crate) fn clean(program: impl AsRef<OsStr>) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.env_clear();
    command.envs(NEEDED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

fn command(flags: &[String]) -> Command {
    let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal-server")));
    command.args(flags);
    noisy(command)
}

/// As noisy as the environment can make it, which must make no difference.
fn noisy(mut command: Command) -> Command {
    command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}
