//! Several answers to one request, and how likely their tokens were.

use codeseal::engine::EngineConfig;
use serde_json::{Value, json};

use crate::harness::{Employee, Server, World};

const PATH: &str = "/v1/completions";
const PROMPT: &str = "def is_prime(n):\n";

fn texts(body: &Value) -> Vec<&str> {
    body["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

async fn sampled(server: &Server, employee: &Employee, n: usize, seed: u64) -> Value {
    let body =
        json!({ "prompt": PROMPT, "max_tokens": 8, "temperature": 1.5, "seed": seed, "n": n, "echo": true });
    let (status, body) = server.ask(employee, PATH, body).await;
    assert_eq!(status, 200, "{body}");
    body
}

#[tokio::test]
async fn several_answers_are_what_each_seed_gives_alone() {
    let world = World::start().await;
    // Room for two at a time, and for none to wait: the third and fourth begin when others have ended.
    let engine = EngineConfig { max_running: 2, max_waiting: 0, ..world.config().engine };
    let server = Server::start(codeseal::server::ServerConfig { engine, ..world.config() }).await;
    let employee = world.employee().await;
    let together = sampled(&server, &employee, 4, 7).await;
    let mut alone = Vec::new();
    for seed in 7..11 {
        alone.push(texts(&sampled(&server, &employee, 1, seed).await)[0].to_owned());
    }
    assert_eq!(texts(&together), alone);
    assert!(alone.iter().all(|text| text.starts_with(PROMPT)) && alone.iter().any(|text| *text != alone[0]));
    let indices: Vec<u64> = together["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["index"].as_u64().unwrap())
        .collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert_eq!(together["usage"]["completion_tokens"], 32, "the prompt counts once, the answers each");
}

#[tokio::test]
async fn the_prompt_of_several_answers_is_read_once() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let prompt = "x = [1, 2, 3]\n".repeat(20);
    let body = json!({ "prompt": prompt, "max_tokens": 2, "n": 3 });
    let (_, body) = server.ask(&employee, PATH, body).await;
    let tokens = body["usage"]["prompt_tokens"].as_u64().unwrap();
    let whole_blocks = (tokens - 1) / 32 * 32;
    let metrics = server.metrics().await;
    let hits = metrics.lines().find_map(|line| line.strip_prefix("codeseal_prefix_cache_hits_total "));
    // More if the first answer has ended before the last one begins: that one finds the rest of the prompt, too.
    let hits = hits.unwrap().parse::<u64>().unwrap();
    assert!((2 * whole_blocks..2 * tokens).contains(&hits), "{hits} of {tokens} tokens");
}

#[tokio::test]
async fn a_stream_of_several_answers_says_which_each_piece_belongs_to() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let whole = sampled(&server, &employee, 3, 1).await;
    let body = json!({
        "prompt": PROMPT, "max_tokens": 8, "temperature": 1.5, "seed": 1, "n": 3, "echo": true, "stream": true,
        "stream_options": { "include_usage": true },
    });
    let sealed = employee.seal(PATH, &body);
    let answer = server.post(PATH, &sealed.body).await;
    let mut pieces = [const { String::new() }; 3];
    let (mut ends, mut usages) = (Vec::new(), Vec::new());
    for event in employee.open_stream(sealed.id, &answer.text).iter().flat_map(|frame| &frame.events) {
        let event: Value = serde_json::from_str(event.get()).unwrap();
        usages.extend(event["usage"]["completion_tokens"].as_u64());
        let Some(choice) = event["choices"].get(0) else { continue };
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        pieces[index].push_str(choice["text"].as_str().unwrap());
        ends.extend(choice["finish_reason"].is_string().then_some(index));
    }
    assert_eq!(pieces.each_ref().map(String::as_str).to_vec(), texts(&whole));
    ends.sort_unstable();
    let tokens = whole["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!((ends, usages), (vec![0, 1, 2], vec![tokens]));
}

#[tokio::test]
async fn tokens_come_with_how_likely_they_were() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let plain = server.complete(&employee, PROMPT).await;
    let asked = json!({ "prompt": PROMPT, "logprobs": 2, "echo": true });
    let (status, body) = server.ask(&employee, PATH, asked).await;
    assert_eq!(status, 200, "{body}");
    let logprobs = &body["choices"][0]["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap();
    let tokens: Vec<&str> = list("tokens").iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), plain);
    assert_eq!(tokens.len() as u64, body["usage"]["completion_tokens"].as_u64().unwrap());
    let mut offset = PROMPT.chars().count();
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(list("text_offset")[index], offset);
        offset += token.chars().count();
        let (chosen, alternatives) = (&list("token_logprobs")[index], &list("top_logprobs")[index]);
        assert!(chosen.as_f64().unwrap() <= 0.0);
        assert_eq!(&alternatives[*token], chosen, "greedy takes the most likely token");
        assert!(alternatives.as_object().unwrap().len() <= 2);
    }
}

#[tokio::test]
async fn a_message_has_its_tokens_in_bytes_as_well() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let body = json!({
        "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 4, "logprobs": true, "top_logprobs": 3
    });
    let (status, body) = server.ask(&employee, "/v1/chat/completions", body).await;
    assert_eq!(status, 200, "{body}");
    let choice = &body["choices"][0];
    let mut bytes = Vec::new();
    for token in choice["logprobs"]["content"].as_array().unwrap() {
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8));
        let alternatives: Vec<f64> = token["top_logprobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["logprob"].as_f64().unwrap())
            .collect();
        assert_eq!(alternatives.len(), 3);
        assert!(alternatives.is_sorted_by(|a, b| a >= b));
        assert_eq!(token["logprob"], alternatives[0]);
    }
    assert_eq!(choice["message"]["content"], String::from_utf8_lossy(&bytes).as_ref());
}
