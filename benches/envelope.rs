//! What sealing costs: `cargo bench --bench envelope`.

#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use codeseal::protocol::{Call, Dek, Envelope, FrameReader, FrameWriter, RequestId, Token, WrappedDek};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use serde_json::value::RawValue;

const PATH: &str = "/v1/completions";

/// A one-line prompt, a screenful, a long file.
const SIZES: [usize; 3] = [64, 4 * 1024, 256 * 1024];

fn seal_and_open(criterion: &mut Criterion) {
    let dek = Dek::generate().unwrap();
    let mut group = criterion.benchmark_group("envelope");
    for size in SIZES {
        let plaintext = vec![b'x'; size];
        let sealed = dek.seal(&plaintext);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::new("seal", size), &plaintext, |bencher, plaintext| {
            bencher.iter(|| dek.seal(black_box(plaintext)));
        });
        group.bench_with_input(BenchmarkId::new("open", size), &sealed, |bencher, sealed| {
            bencher.iter(|| dek.open(&Token::parse(black_box(sealed).as_bytes()).unwrap()).unwrap());
        });
    }
}

/// From the bytes of a request to its parsed call, the DEK being cached.
fn request(criterion: &mut Criterion) {
    let dek = Dek::generate().unwrap();
    let body = RawValue::from_string(format!(r#"{{"prompt":"{}"}}"#, "x".repeat(4096))).unwrap();
    let id = RequestId::generate().unwrap();
    let call = Call { id, path: PATH, server: None, body: &body };
    let ciphertext = dek.for_requests(PATH).seal(call.encode().unwrap().expose());
    let wrapped_dek = WrappedDek::new(vec![7; 160]).unwrap().to_base64();
    let request = serde_json::json!({"wrapped_dek": wrapped_dek, "ciphertext": ciphertext}).to_string();
    criterion.bench_function("request/parse and open", |bencher| {
        bencher.iter(|| {
            let envelope = Envelope::parse(black_box(request.as_bytes()), PATH).unwrap();
            let plaintext = envelope.open(&dek).unwrap();
            Call::decode(plaintext.expose()).unwrap().body.get().len()
        });
    });
}

fn frame(criterion: &mut Criterion) {
    let key = Dek::generate().unwrap().for_answers(PATH);
    let event = RawValue::from_string(r#"{"choices":[{"index":0,"text":" return"}]}"#.into()).unwrap();
    criterion.bench_function("stream/frame written, sealed, opened and checked", |bencher| {
        let id = RequestId::generate().unwrap();
        let (mut writer, mut reader) = (FrameWriter::new(id), FrameReader::new(id));
        bencher.iter(|| {
            let plaintext = writer.next_frame(&mut vec![event.clone()], false).unwrap();
            let token = Token::parse(key.seal(plaintext.expose()).as_bytes()).unwrap();
            reader.accept(key.open(&token).unwrap().expose()).unwrap().events.len()
        });
    });
}

criterion_group!(benches, seal_and_open, request, frame);
criterion_main!(benches);
