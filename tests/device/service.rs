//! The whole server before a device: what clients see of one that fails, and how the server ends then.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};

use codeseal::engine::{EngineConfig, EngineParts, OpenError, start_on};
use codeseal::model::{ModelFiles, Quantize, TINY_MODEL_NAME};
use codeseal::server::{ModelOrigin, Service};
use codeseal::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::harness::{Answer, Employee, Sealed, Server, World, http, until};
use codeseal_emulator::device::{Emulator, Traits};

/// Ends the device.
static DIES: AtomicBool = AtomicBool::new(false);

/// As the program opens an engine on a GPU; in the embedded model's place is one that takes little time here.
fn open(
    files: &ModelFiles,
    name: &str,
    quantize: Quantize,
    config: EngineConfig,
) -> Result<EngineParts, OpenError> {
    let shape = json!({
        "model_type": "gemma", "vocab_size": 4096, "hidden_size": 64, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 256,
    });
    let model = ModelFiles::random(shape.to_string().into_bytes())?;
    let traits = Traits { free_bytes: 64 << 20, dies: Some(&DIES), ..Traits::SOUND };
    let (handle, engine) = start_on(move || Ok(Emulator::with(traits)), model, name, quantize, config)?;
    Ok((handle, engine, Tokenizer::from_files(files)?))
}

fn completion(employee: &Employee, stream: bool) -> Sealed {
    let body = json!({ "prompt": "def f(", "stream": stream, "max_tokens": 4000 });
    employee.seal("/v1/completions", &body)
}

#[tokio::test]
async fn a_device_that_fails_in_service_ends_the_server_and_every_client_is_told() {
    let world = World::start().await;
    let employee = world.employee().await;
    let mut config = world.config();
    config.model = ModelOrigin::Files { name: TINY_MODEL_NAME.to_owned(), files: ModelFiles::tiny() };
    config.engine = EngineConfig { step_tokens: 32, ..EngineConfig::new(2, 2) };
    let mut service = Service::start_with(config, open).await.unwrap();
    service.ready().await.unwrap();
    let server = Server { service, http: http() };
    server.until_ready().await;

    // One request whose stream has begun, and one that waits for a whole answer.
    let send = |sealed: &Sealed| server.http.post(server.url("/v1/completions")).json(&sealed.body).send();
    let (streamed, whole) = (completion(&employee, true), completion(&employee, false));
    let waiting = tokio::spawn(send(&whole));
    let mut stream = send(&streamed).await.unwrap();
    let mut text = stream.chunk().await.unwrap().expect("the stream begins").to_vec();
    until("both run", async || server.metrics().await.contains("codeseal_requests_in_flight 2")).await;
    assert_eq!(server.get("/readyz").await.status, 200);

    DIES.store(true, Ordering::SeqCst);
    let answer = Answer::read(waiting.await.unwrap().unwrap()).await;
    let (status, body) = employee.open(whole.id, &answer);
    assert_eq!((status, &body["error"]["code"]), (500, &json!("internal")), "{body}");
    text.extend(stream.bytes().await.unwrap());
    let frames = employee.open_stream(streamed.id, std::str::from_utf8(&text).unwrap());
    let last = frames.iter().flat_map(|frame| &frame.events).next_back().unwrap();
    let last: Value = serde_json::from_str(last.get()).unwrap();
    assert_eq!(last["error"]["code"], "internal", "{last}");

    // New requests are refused, by load balancers, which read /readyz, and by the server.
    let readiness = server.get("/readyz").await;
    assert_eq!((readiness.status, readiness.code().as_str()), (503, "draining"));
    let late = completion(&employee, false);
    let (status, body) = employee.open(late.id, &server.post("/v1/completions", &late.body).await);
    assert_eq!((status, &body["error"]["code"]), (503, &json!("draining")), "{body}");

    let end = tokio::time::timeout(crate::harness::PATIENCE, server.service.run_until(pending())).await;
    let error = end.expect("it does not go on by itself").unwrap_err();
    assert_eq!((error.to_string().as_str(), error.exit_code()), ("the device failed: as told", 69));
}
