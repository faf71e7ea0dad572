//! Malformed, forged, replayed, oversized and slow requests: each gets its status, and nothing is given away.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use bytes::Bytes;
use codeseal::protocol::REPLAY_WINDOW_SECS;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Answer, Employee, PATIENCE, Server, World};

/// In every prompt here, and in no answer.
const CANARY: &str = "canary-2f9c";

fn tampered(token: &str, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = BASE64_URL_SAFE.decode(token).unwrap();
    change(&mut bytes);
    BASE64_URL_SAFE.encode(bytes)
}

/// Has the sandbox's KMS encrypt something that is no DEK.
async fn wrapped_by_kms(world: &World, server: &Server, plaintext: &[u8]) -> String {
    let url = format!("{}/v1/{}:encrypt", world.sandbox.endpoint(), world.sandbox.kms_key());
    let body = json!({ "plaintext": BASE64_STANDARD.encode(plaintext) });
    let answer: Value = server.http.post(url).json(&body).send().await.unwrap().json().await.unwrap();
    answer["ciphertext"].as_str().unwrap().to_owned()
}

/// A token that is genuine but for the time at which it says it was sealed.
fn sealed_at(employee: &Employee, plaintext: &[u8], timestamp: u64) -> String {
    let fernet = fernet::Fernet::new(employee.dek.to_fernet_key().expose()).unwrap();
    fernet.encrypt_at_time(plaintext, timestamp)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn all_faults_of_an_envelope_look_the_same() {
    let world = World::start().await;
    let (server, employee, stranger) = (world.server().await, world.employee().await, world.employee().await);
    let path = "/v1/completions";
    let plaintext = employee
        .unseal(employee.seal(path, &json!({ "prompt": CANARY })).body["ciphertext"].as_str().unwrap());
    let key = employee.dek.for_requests(path);
    let token = key.seal(&plaintext);
    let wrong_key = world.sandbox.kms_key().replace("cryptoKeys/", "cryptoKeys/other-");
    world.sandbox.add_key(&wrong_key).unwrap();
    let wrapped_by_another = {
        let url = format!("{}/v1/{wrong_key}:encrypt", world.sandbox.endpoint());
        let body = json!({ "plaintext": BASE64_STANDARD.encode(employee.dek.to_fernet_key().expose()) });
        let answer: Value = server.http.post(url).json(&body).send().await.unwrap().json().await.unwrap();
        answer["ciphertext"].as_str().unwrap().to_owned()
    };
    let with_key = |wrapped: &str| json!({ "wrapped_dek": wrapped, "ciphertext": token });

    let faults = [
        ("base64 of the token", employee.envelope("!!!")),
        ("base64 of the key", with_key("A")),
        ("an empty token", employee.envelope("")),
        ("an empty key", with_key("")),
        ("a key that is too long", with_key(&"A".repeat(4096))),
        ("a version that is not Fernet's", employee.envelope(&tampered(&token, |bytes| bytes[0] = 0x81))),
        ("a forged timestamp", employee.envelope(&tampered(&token, |bytes| bytes[8] ^= 1))),
        (
            "a timestamp at the end of time",
            employee.envelope(&tampered(&token, |bytes| bytes[1..9].fill(0xff))),
        ),
        ("a forged byte", employee.envelope(&tampered(&token, |bytes| bytes[40] ^= 1))),
        ("a forged HMAC", employee.envelope(&tampered(&token, |bytes| *bytes.last_mut().unwrap() ^= 1))),
        ("a cut token", employee.envelope(&tampered(&token, |bytes| bytes.truncate(80)))),
        ("another employee's key", with_key(&stranger.wrapped.to_base64())),
        ("no KMS ciphertext", with_key(&BASE64_STANDARD.encode([7; 80]))),
        ("a key of another KMS key", with_key(&wrapped_by_another)),
        ("a KMS plaintext that is no DEK", with_key(&wrapped_by_kms(&world, &server, b"no DEK").await)),
        ("a plaintext that is no call", employee.envelope(&key.seal(CANARY.as_bytes()))),
        ("a plaintext that is not UTF-8", employee.envelope(&key.seal(b"\xff\xfe"))),
        ("a call for another path", employee.seal("/v1/chat/completions", &json!({ "prompt": CANARY })).body),
        ("a call that names another path", {
            let named = String::from_utf8(plaintext.clone()).unwrap().replace(path, "/v1/chat/completions");
            employee.envelope(&key.seal(named.as_bytes()))
        }),
        ("a call under the key itself", employee.envelope(&employee.dek.seal(&plaintext))),
    ];
    let mut answers = Vec::new();
    for (fault, body) in faults {
        answers.push((fault, server.post(path, &body).await));
    }
    let not_utf8 = employee.prompt(b"\xff\xfe canary-2f9c");
    answers.push(("a prompt that is not UTF-8", server.post("/generate", &not_utf8).await));
    let once = employee.envelope(&employee.dek.seal(CANARY.as_bytes()));
    answers.push(("a token in base64 once only", server.post("/generate", &once).await));

    let (_, first) = &answers[0];
    assert_eq!((first.status, first.code().as_str()), (400, "envelope_rejected"));
    for (fault, answer) in &answers {
        assert_eq!((answer.status, &answer.text), (first.status, &first.text), "{fault}");
    }
    server.complete(&employee, "the server lives on").await;
}

#[tokio::test]
async fn what_is_not_the_json_of_the_path_is_an_invalid_request() {
    let world = World::start().await;
    let server = world.server().await;
    let nested = "[".repeat(100_000);
    for path in ["/generate", "/v1/completions", "/v1/chat/completions"] {
        for body in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"ciphertext":"x"}"#,
            r#"{"ciphertext":1,"wrapped_dek":2}"#,
            &nested,
            "\0",
            "\u{feff}{}",
        ] {
            let request = server.http.post(server.url(path)).body(body.to_owned());
            let answer = Answer::read(request.send().await.unwrap()).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{path}");
        }
    }
}

#[tokio::test]
async fn under_the_seal_errors_are_sealed() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let long = format!("{CANARY} ").repeat(20_000);
    for (path, body, status, code) in [
        ("/v1/completions", json!({ "nothing": CANARY }), 422, "invalid_parameter"),
        ("/v1/completions", json!({ "prompt": [CANARY, CANARY] }), 422, "invalid_parameter"),
        ("/v1/completions", json!({ "prompt": CANARY, "max_tokens": -1 }), 422, "invalid_parameter"),
        ("/v1/completions", json!({ "prompt": CANARY, "n": 17 }), 422, "invalid_parameter"),
        ("/v1/completions", json!({ "prompt": CANARY, "logprobs": 21 }), 422, "invalid_parameter"),
        ("/v1/completions", json!({ "prompt": CANARY, "stop": [""] }), 422, "invalid_parameter"),
        ("/v1/completions", json!({ "prompt": CANARY, "stop": vec![CANARY; 65] }), 422, "invalid_parameter"),
        ("/v1/completions", json!({ "prompt": CANARY, "temperature": -1 }), 422, "invalid_parameter"),
        (
            "/v1/completions",
            json!({ "prompt": CANARY, "max_tokens": u32::MAX }),
            400,
            "context_length_exceeded",
        ),
        ("/v1/completions", json!({ "prompt": long }), 400, "context_length_exceeded"),
        ("/v1/completions", json!({ "prompt": "x", "suffix": long }), 400, "context_length_exceeded"),
        ("/v1/chat/completions", json!({ "messages": [] }), 422, "invalid_parameter"),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "assistant", "content": CANARY }] }),
            422,
            "invalid_parameter",
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "canary", "content": CANARY }] }),
            422,
            "invalid_parameter",
        ),
    ] {
        let (found, answer) = server.ask(&employee, path, body).await;
        assert_eq!((found, &answer["error"]["code"]), (status, &json!(code)), "{answer}");
        assert!(!answer.to_string().contains("canary"), "{answer}");
    }
    let generate = server.post("/generate", &employee.prompt(long.as_bytes())).await;
    assert_eq!((generate.status, generate.code().as_str()), (400, "context_length_exceeded"));
}

#[tokio::test]
async fn an_envelope_is_served_once() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let call = employee.seal("/v1/completions", &json!({ "prompt": CANARY }));
    let prompt = employee.prompt(CANARY.as_bytes());
    for (path, body) in [("/v1/completions", &call.body), ("/generate", &prompt)] {
        assert_eq!(server.post(path, body).await.status, 200);
        let again = server.post(path, body).await;
        assert_eq!((again.status, again.code().as_str()), (409, "replayed"));
        assert_eq!(again.retry_after, None);
    }
    // The same token dressed up otherwise is still the same token.
    let mut dressed = call.body.clone();
    dressed["ciphertext"] = format!("{}\n", call.body["ciphertext"].as_str().unwrap()).into();
    assert_eq!(server.post("/v1/completions", &dressed).await.code(), "replayed");
}

#[tokio::test]
async fn a_genuine_timestamp_outside_the_window_is_refused() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    for (timestamp, side) in [
        (now() - REPLAY_WINDOW_SECS - 5, Some("s behind the server's clock")),
        (now() - 3600, Some("s behind the server's clock")),
        (now() + REPLAY_WINDOW_SECS + 60, Some("s ahead of the server's clock")),
        (u64::MAX, Some("s ahead of the server's clock")),
        (0, Some("s behind the server's clock")),
        (now() - REPLAY_WINDOW_SECS + 60, None),
        (now() + REPLAY_WINDOW_SECS - 5, None),
    ] {
        let token = sealed_at(&employee, CANARY.as_bytes(), timestamp);
        let body = employee.envelope(&BASE64_STANDARD.encode(token));
        let before = now();
        let answer = server.post("/generate", &body).await;
        let Some(side) = side else {
            assert_eq!(answer.status, 200, "{timestamp}");
            continue;
        };
        // Sent twice it is no replay: nothing was served.
        for answer in [answer, server.post("/generate", &body).await] {
            assert_eq!((answer.status, answer.code().as_str()), (409, "clock_skew"), "{timestamp}");
            assert_eq!(answer.retry_after, None);
            let error = &answer.json()["error"];
            assert!(error["message"].as_str().unwrap().contains(side), "{error}");
            assert!((before..=now()).contains(&error["server_time"].as_u64().unwrap()), "{error}");
        }
    }
}

#[tokio::test]
async fn a_forged_timestamp_is_told_nothing_about_clocks() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let token = employee.dek.seal(CANARY.as_bytes());
    let forged = tampered(&token, |bytes| bytes[1..9].copy_from_slice(&(now() + 3600).to_be_bytes()));
    let answer = server.post("/generate", &employee.envelope(&BASE64_STANDARD.encode(forged))).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "envelope_rejected"));
    assert!(!answer.text.contains("clock") && !answer.text.contains("server_time"), "{}", answer.text);
}

#[tokio::test]
async fn a_full_replay_set_refuses() {
    let world = World::start().await;
    let mut config = world.config();
    config.limits.max_replay_entries = 1;
    let (server, employee) = (Server::start(config).await, world.employee().await);
    server.complete(&employee, "x").await;
    let refused = server.post("/generate", &employee.prompt(b"y")).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "replay_set_full"));
    assert_eq!(refused.retry_after, Some(30));
}

#[tokio::test]
async fn a_hundred_megabytes_are_refused_with_an_answer() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let megabyte = Bytes::from(vec![b'x'; 1 << 20]);
    let declared = server.http.post(server.url("/generate")).body(vec![b'x'; 100 << 20]);
    let chunks = stream::iter(vec![Ok::<_, std::convert::Infallible>(megabyte); 100]);
    let undeclared = server.http.post(server.url("/generate")).body(reqwest::Body::wrap_stream(chunks));
    for request in [declared, undeclared] {
        let answer = Answer::read(request.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.code().as_str()), (413, "payload_too_large"));
    }
    server.complete(&employee, "the server lives on").await;
}

/// Sends `head`, then a byte now and then, and reads what comes back until the connection is closed.
async fn trickle(server: &Server, head: &str) -> String {
    let stream = TcpStream::connect(server.service.address()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(head.as_bytes()).await.unwrap();
    let trickling = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    let reading = async {
        // A reset ends the reading as well as an orderly end does.
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..count]);
            if answer.ends_with(b"}") {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the server cuts a connection that trickles");
    trickling.abort();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_byte_now_and_then_runs_into_the_time_limit() {
    let world = World::start().await;
    let mut config = world.config();
    config.limits.body_timeout = Duration::from_millis(400);
    config.limits.header_timeout = Duration::from_millis(400);
    let (server, employee) = (Server::start(config).await, world.employee().await);
    let body = "POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n";
    let answer = trickle(&server, body).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("request_timeout"), "{answer}");
    let head = trickle(&server, "POST /generate HTTP/1.1\r\nx: ").await;
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    server.complete(&employee, "the server lives on").await;
}

#[tokio::test]
async fn trickling_clients_take_no_slot_from_others() {
    let world = World::start().await;
    let mut config = world.config();
    (config.engine.max_running, config.engine.max_waiting) = (1, 0);
    let (server, employee) = (Server::start(config).await, world.employee().await);
    let mut slow = TcpStream::connect(server.service.address()).await.unwrap();
    slow.write_all(b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nx").await.unwrap();
    server.complete(&employee, "x").await;
}
