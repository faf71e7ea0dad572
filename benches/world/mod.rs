//! A whole server on loopback, key service included, for measuring sealed requests.

// Each bench uses a part of it.
#![allow(dead_code)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use codeseal::attestation::{OnTokenExpiry, Profile};
use codeseal::engine::{EngineConfig, Open, Quantize};
use codeseal::keys::{CacheLimits, Endpoint, KmsConfig, Timeouts, WrapConfig, Wrapper};
use codeseal::protocol::{Call, Dek, RequestId, WrappedDek};
use codeseal::sandbox::{Sandbox, SandboxConfig};
use codeseal::server::{Logging, ModelOrigin, RequestLimits, ServerConfig};
use codeseal::server::{Service, Shaping};
use codeseal::telemetry::{LogFormat, LogLevel};
use serde_json::json;
use serde_json::value::RawValue;

const PATH: &str = "/v1/completions";

/// The server, its key service, and a client.
pub(crate) struct World {
    service: Service,
    pub(crate) sandbox: Sandbox,
    _dir: tempfile::TempDir,
    pub(crate) runtime: tokio::runtime::Runtime,
    dek: Dek,
    pub(crate) wrapped: WrappedDek,
    prompt: String,
    new_tokens: usize,
}

impl World {
    /// A server of the model in `dir` as `open` opens it, and requests that ask for `new_tokens` after a prompt of this many
    /// bytes.
    pub(crate) fn start(
        dir: tempfile::TempDir,
        engine: EngineConfig,
        open: Open,
        prompt_bytes: usize,
        new_tokens: usize,
    ) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (service, sandbox, dek, wrapped) = runtime.block_on(async {
            let sandbox = Sandbox::start(SandboxConfig::for_tests(dir.path().join("cs"))).await.unwrap();
            let mut service = Service::start_with(config(&sandbox, dir.path(), engine), open).await.unwrap();
            service.ready().await.unwrap();
            let endpoint = Endpoint::Sandbox(sandbox.endpoint().to_owned());
            let key = sandbox.kms_key().parse().unwrap();
            let wrapper = Wrapper::connect(WrapConfig { key, endpoint }).await.unwrap();
            let dek = Dek::generate().unwrap();
            let wrapped = wrapper.wrap(&dek).await.unwrap();
            (service, sandbox, dek, wrapped)
        });
        let line = "    total = sum(item.price * item.count for item in basket if item.count > 0)\n";
        let mut prompt = line.repeat(prompt_bytes / line.len() + 1);
        prompt.truncate(prompt_bytes);
        Self { service, sandbox, _dir: dir, runtime, dek, wrapped, prompt, new_tokens }
    }

    /// Stops the server.
    pub(crate) fn end(self) {
        let Self { service, runtime, .. } = self;
        runtime.block_on(service.shutdown());
    }

    /// A client's connection.
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.service.address())
    }

    /// A request as it goes over the wire, sealed each time: a replayed one would be refused.
    pub(crate) fn request(&self) -> Vec<u8> {
        let body = json!({ "prompt": self.prompt, "max_tokens": self.new_tokens }).to_string();
        let body = RawValue::from_string(body).unwrap();
        let id = RequestId::generate().unwrap();
        let call = Call { id, path: PATH, server: None, body: &body }.encode().unwrap();
        let ciphertext = self.dek.for_requests(PATH).seal(call.expose());
        let body = json!({ "wrapped_dek": self.wrapped.to_base64(), "ciphertext": ciphertext }).to_string();
        let length = body.len();
        format!("POST {PATH} HTTP/1.1\r\nhost: codeseal\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
            .into_bytes()
    }
}

/// A connection that is kept.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: vec![0; 64 * 1024] }
    }

    /// Sends a request and reads its whole answer.
    pub(crate) fn ask(&mut self, request: &[u8]) {
        self.stream.write_all(request).unwrap();
        let mut read = 0;
        loop {
            let more = self.stream.read(&mut self.buffer[read..]).unwrap();
            assert_ne!(more, 0, "the server has hung up");
            read += more;
            let text = &self.buffer[..read];
            let Some(end) = text.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&text[..end]).unwrap().to_ascii_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(text));
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if read >= end + 4 + length.unwrap().parse::<usize>().unwrap() {
                return;
            }
        }
    }
}

fn config(sandbox: &Sandbox, model: &Path, engine: EngineConfig) -> ServerConfig {
    let any = "127.0.0.1:0".parse().unwrap();
    let patience = Duration::from_secs(30);
    let files = codeseal::model::ModelFiles::directory(model);
    ServerConfig {
        listen: any,
        admin_listen: any,
        model: ModelOrigin::Files { name: "random weights".to_owned(), files },
        quantize: Quantize::None,
        kms: kms(sandbox),
        profile: Profile::Sandbox,
        on_token_expiry: OnTokenExpiry::Wait,
        shaping: Shaping::Off,
        engine,
        limits: RequestLimits {
            max_new_tokens: 1024,
            max_body_bytes: 1 << 20,
            max_connections: 256,
            max_replay_entries: 10_000_000,
            max_attestations_per_minute: 60,
            header_timeout: patience,
            body_timeout: patience,
            write_timeout: patience,
            request_timeout: patience,
        },
        drain_limit: patience,
        watch_interval: patience,
        logging: Logging { format: LogFormat::Text, level: LogLevel::Info },
    }
}

/// What the server reaches its key by.
pub(crate) fn kms(sandbox: &Sandbox) -> KmsConfig {
    KmsConfig {
        key: sandbox.kms_key().parse().unwrap(),
        wip_audience: sandbox.wip_audience().parse().unwrap(),
        token_file: sandbox.token_file().to_owned(),
        token_socket: Some(sandbox.socket().to_owned()),
        impersonate: None,
        endpoint: Endpoint::Sandbox(sandbox.endpoint().to_owned()),
        timeouts: Timeouts::default(),
        cache: CacheLimits { ttl: Duration::from_secs(3600), ..CacheLimits::default() },
    }
}
