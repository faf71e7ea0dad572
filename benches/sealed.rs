//! What a sealed request costs beside the model's work: `cargo bench --bench sealed`.
//!
//! A whole server on loopback, key service included, around a model with next to nothing to do: a prompt of 2 KB that
//! it has read before, and one new token. Requests are sealed beforehand, and sent by plain sockets that do nothing
//! else, because they share the cores with the server.

#![allow(clippy::unwrap_used, missing_docs)]

mod idle;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use codeseal::attestation::{OnTokenExpiry, Profile};
use codeseal::engine::{EngineConfig, Quantize};
use codeseal::keys::{CacheLimits, Endpoint, Keys, KmsConfig, Timeouts, WrapConfig, Wrapper};
use codeseal::protocol::{Call, Dek, RequestId, WrappedDek};
use codeseal::sandbox::{Sandbox, SandboxConfig};
use codeseal::server::{Logging, ModelOrigin, RequestLimits, ServerConfig};
use codeseal::server::{Service, Shaping};
use codeseal::telemetry::{LogFormat, LogLevel};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::json;
use serde_json::value::RawValue;

const PATH: &str = "/v1/completions";
/// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Code that is two kilobytes long.
const PROMPT_BYTES: usize = 2048;
/// Clients at once, where throughput is measured.
const CLIENTS: usize = 16;

struct World {
    service: Service,
    sandbox: Sandbox,
    _dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    dek: Dek,
    wrapped: WrappedDek,
    prompt: String,
}

impl World {
    fn start() -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        idle::write(dir.path());
        let (service, sandbox, dek, wrapped) = runtime.block_on(async {
            let sandbox = Sandbox::start(SandboxConfig::for_tests(dir.path().join("cs"))).await.unwrap();
            let mut service = Service::start(config(&sandbox, dir.path())).await.unwrap();
            service.ready().await.unwrap();
            let endpoint = Endpoint::Sandbox(sandbox.endpoint().to_owned());
            let key = sandbox.kms_key().parse().unwrap();
            let wrapper = Wrapper::connect(WrapConfig { key, endpoint }).await.unwrap();
            let dek = Dek::generate().unwrap();
            let wrapped = wrapper.wrap(&dek).await.unwrap();
            (service, sandbox, dek, wrapped)
        });
        let line = "    total = sum(item.price * item.count for item in basket if item.count > 0)\n";
        let mut prompt = line.repeat(PROMPT_BYTES / line.len() + 1);
        prompt.truncate(PROMPT_BYTES);
        Self { service, sandbox, _dir: dir, runtime, dek, wrapped, prompt }
    }

    fn connect(&self) -> Connection {
        Connection::open(self.service.address())
    }

    /// A request as it goes over the wire, sealed anew: a repeated one would be refused.
    fn request(&self) -> Vec<u8> {
        let body = json!({ "prompt": self.prompt, "max_tokens": 1 }).to_string();
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
struct Connection {
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
    fn ask(&mut self, request: &[u8]) {
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

/// A DEK that is in the cache.
fn keys(criterion: &mut Criterion) {
    let world = World::start();
    let keys = world.runtime.block_on(async {
        let keys = Keys::connect(kms(&world.sandbox)).await.unwrap();
        keys.dek(&world.wrapped).await.unwrap();
        keys
    });
    criterion.bench_function("keys/a DEK that is cached", |bencher| {
        bencher.iter(|| world.runtime.block_on(keys.dek(&world.wrapped)).unwrap());
    });
    let World { service, runtime, .. } = world;
    runtime.block_on(service.shutdown());
}

fn sealed(criterion: &mut Criterion) {
    let world = World::start();
    let mut connection = world.connect();
    // Has the key unwrapped and the prompt read.
    connection.ask(&world.request());

    let mut group = criterion.benchmark_group("sealed");
    group.bench_function("nothing: GET /livez", |bencher| {
        bencher.iter(|| connection.ask(b"GET /livez HTTP/1.1\r\nhost: codeseal\r\n\r\n"));
    });
    group.bench_function("one request at a time", |bencher| {
        bencher.iter_batched(|| world.request(), |request| connection.ask(&request), BatchSize::SmallInput);
    });
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(15));
    group.bench_function("requests of 16 clients", |bencher| {
        bencher.iter_custom(|requests| together(&world, usize::try_from(requests).unwrap()));
    });
    group.finish();
    let World { service, runtime, .. } = world;
    runtime.block_on(service.shutdown());
}

/// How long so many requests take when as many clients as there are send theirs at once.
fn together(world: &World, requests: usize) -> Duration {
    let mut clients: Vec<(Connection, Vec<Vec<u8>>)> = (0..CLIENTS)
        .map(|client| {
            let share = requests / CLIENTS + usize::from(client < requests % CLIENTS);
            (world.connect(), (0..share).map(|_| world.request()).collect())
        })
        .collect();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for (connection, requests) in &mut clients {
            scope.spawn(move || requests.iter().for_each(|request| connection.ask(request)));
        }
    });
    started.elapsed()
}

fn config(sandbox: &Sandbox, model: &Path) -> ServerConfig {
    let any = "127.0.0.1:0".parse().unwrap();
    let patience = Duration::from_secs(30);
    let files = codeseal::model::ModelFiles::directory(model);
    ServerConfig {
        listen: any,
        admin_listen: any,
        model: ModelOrigin::Files { name: "idle".to_owned(), files },
        quantize: Quantize::None,
        kms: kms(sandbox),
        profile: Profile::Sandbox,
        on_token_expiry: OnTokenExpiry::Wait,
        shaping: Shaping::Off,
        engine: EngineConfig { kv_cache_bytes: Some(64 << 20), ..EngineConfig::new(32, 64) },
        limits: RequestLimits {
            max_new_tokens: 16,
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

fn kms(sandbox: &Sandbox) -> KmsConfig {
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

criterion_group!(benches, keys, sealed);
criterion_main!(benches);
