//! What a sealed request costs beside the model's work: `cargo bench --bench sealed`.
//!
//! A whole server on loopback, key service included, around a model with next to nothing to do: a prompt of 2 KB that
//! it has read before, and one new token. Requests are sealed beforehand, and sent by plain sockets that do nothing
//! else, because they share the cores with the server.

#![allow(clippy::unwrap_used, missing_docs)]

mod idle;
mod world;

use std::time::{Duration, Instant};

use codeseal::engine::{self, EngineConfig};
use codeseal::keys::Keys;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use self::world::{Connection, World, kms};

/// The server's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Code that is two kilobytes long.
const PROMPT_BYTES: usize = 2048;
/// Clients at once, where throughput is measured.
const CLIENTS: usize = 16;

/// A server of the model with next to nothing to do.
fn start() -> World {
    let dir = tempfile::tempdir().unwrap();
    idle::write(dir.path());
    let engine = EngineConfig { kv_cache_bytes: Some(64 << 20), ..EngineConfig::new(32, 64) };
    World::start(dir, engine, engine::open, PROMPT_BYTES, 1)
}

/// A DEK that is in the cache.
fn keys(criterion: &mut Criterion) {
    let world = start();
    let keys = world.runtime.block_on(async {
        let keys = Keys::connect(kms(&world.sandbox)).await.unwrap();
        keys.dek(&world.wrapped).await.unwrap();
        keys
    });
    criterion.bench_function("keys/a DEK that is cached", |bencher| {
        bencher.iter(|| world.runtime.block_on(keys.dek(&world.wrapped)).unwrap());
    });
    world.end();
}

fn sealed(criterion: &mut Criterion) {
    let world = start();
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
    world.end();
}

/// How long these requests take when each client sends its own at the same time.
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

criterion_group!(benches, keys, sealed);
criterion_main!(benches);
