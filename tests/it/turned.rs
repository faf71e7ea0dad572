//! An envelope serves one path and one server: sent anywhere else, or back, it is what a forged one is.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use codeseal::protocol::{Evidence, ServerId};
use serde_json::{Value, json};

use crate::harness::{Employee, PATHS, Server, World};

const GENERATE: &str = "/generate";
const PROMPT: &str = "def fibonacci(n):";

/// A token that was recorded on the network, and the path that it was sealed for.
struct Recorded {
    what: &'static str,
    token: String,
    place: Option<&'static str>,
}

fn ciphertext(body: &Value) -> String {
    body["ciphertext"].as_str().unwrap().to_owned()
}

/// `token` as the body of a request to `place`.
fn body(employee: &Employee, token: &str, place: &str) -> Value {
    let nested = || BASE64_STANDARD.encode(token);
    employee.envelope(&if place == GENERATE { nested() } else { token.to_owned() })
}

async fn id(server: &Server) -> ServerId {
    let question = json!({ "audience": "codeseal:test", "nonces": ["0123456789"] });
    let answer = server.post("/attestation", &question).await;
    serde_json::from_str::<Evidence>(&answer.text).unwrap().identity.server
}

fn prompt_tokens(metrics: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("codeseal_prompt_tokens_total "));
    line.unwrap().parse().unwrap()
}

/// Everything that is sealed in a session: sent or not, in both directions.
async fn recorded(server: &Server, other: ServerId, employee: &Employee) -> Vec<Recorded> {
    let mut recorded = Vec::new();
    let mut note = |what, token: String, place| recorded.push(Recorded { what, token, place });
    let asked = [json!({ "prompt": PROMPT }), json!({ "messages": [{ "role": "user", "content": PROMPT }] })];
    for (path, asked) in PATHS.into_iter().zip(asked) {
        note("a call that never arrived", ciphertext(&employee.seal(path, &asked).body), Some(path));
        let elsewhere = employee.seal_for(path, Some(other), &asked);
        note("a call for another server", ciphertext(&elsewhere.body), Some(path));
        let answered = employee.seal(path, &asked);
        let reply = server.post(path, &answered.body).await;
        assert_eq!(employee.open(answered.id, &reply).0, 200);
        note("a call that was answered", ciphertext(&answered.body), Some(path));
        note("a reply", ciphertext(&reply.json()), None);
        let refused = employee.seal(path, &json!({}));
        let reply = server.post(path, &refused.body).await;
        assert_eq!(employee.open(refused.id, &reply).0, 422);
        note("a sealed error", ciphertext(&reply.json()), None);
        let mut streamed = asked.clone();
        streamed["stream"] = json!(true);
        let stream = server.post(path, &employee.seal(path, &streamed).body).await;
        let frames = stream.text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
        let frames: Vec<&str> = frames.collect();
        for frame in [frames[0], frames[frames.len() - 1]] {
            note("a frame", frame.to_owned(), None);
        }
    }
    note("a prompt", employee.dek.seal(PROMPT.as_bytes()), Some(GENERATE));
    let call = employee.unseal(&ciphertext(&employee.seal(PATHS[0], &json!({ "prompt": PROMPT })).body));
    note("a call under the key itself", employee.dek.seal(&call), None);
    let generated = server.post(GENERATE, &employee.prompt(PROMPT.as_bytes())).await;
    let token = generated.json()["generated_code_ciphertext"].as_str().unwrap().to_owned();
    let token = String::from_utf8(BASE64_STANDARD.decode(token).unwrap()).unwrap();
    assert!(String::from_utf8(employee.unseal(&token)).unwrap().starts_with(PROMPT));
    note("an answer of /generate", token, None);
    recorded
}

#[tokio::test]
async fn an_envelope_that_is_turned_elsewhere_or_sent_back_is_rejected_and_nothing_is_generated() {
    let world = World::start().await;
    let (server, replica) = (world.server().await, world.server().await);
    let employee = world.employee().await;
    let recorded = recorded(&server, id(&replica).await, &employee).await;
    assert_eq!(recorded.len(), 17);
    let forged = server.post(PATHS[0], &employee.envelope("gAAAAA")).await;
    assert_eq!((forged.status, forged.code().as_str()), (400, "envelope_rejected"));

    for target in [&server, &replica] {
        let before = prompt_tokens(&target.metrics().await);
        for Recorded { what, token, place } in &recorded {
            for to in [GENERATE, PATHS[0], PATHS[1]] {
                if *place == Some(to) {
                    continue;
                }
                // Twice: that it was seen before is not told either.
                for _ in 0..2 {
                    let answer = target.post(to, &body(&employee, token, to)).await;
                    assert_eq!((answer.status, &answer.text), (400, &forged.text), "{what} to {to}");
                }
            }
        }
        assert_eq!(prompt_tokens(&target.metrics().await), before, "something was generated");
    }

    // Where they were meant to go they are still served: the tries left no trace.
    for Recorded { what, token, place } in &recorded {
        let Some(place) = place.filter(|_| ["a call that never arrived", "a prompt"].contains(what)) else {
            continue;
        };
        assert_eq!(server.post(place, &body(&employee, token, place)).await.status, 200, "{what}");
    }
}

#[tokio::test]
async fn a_call_for_another_server_generates_nothing() {
    let world = World::start().await;
    let (server, other, employee) = (world.server().await, world.server().await, world.employee().await);
    let call = employee.seal_for(PATHS[0], Some(id(&other).await), &json!({ "prompt": PROMPT }));
    let answer = server.post(PATHS[0], &call.body).await;
    let (status, body) = employee.open(call.id, &answer);
    assert_eq!((status, &body["error"]["code"]), (421, &json!("server_changed")));
    assert_eq!(prompt_tokens(&server.metrics().await), 0);
    assert_eq!(employee.open(call.id, &other.post(PATHS[0], &call.body).await).0, 200);
}
