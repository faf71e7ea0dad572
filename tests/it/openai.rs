//! OpenAI's API under the seal, as its clients use it: what they leave empty, how they write numbers, what a refusal says,
//! and the members that it does not have.

use codeseal::engine::EngineConfig;
use codeseal::server::ServerConfig;
use serde_json::{Value, json};

use crate::harness::{ENDLESS, Employee, Server, World};

const PATH: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const PROMPT: &str = "def is_prime(n):\n";

async fn desk() -> (World, Server, Employee) {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    (world, server, employee)
}

/// `body` with the members of `more`.
fn with(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// The answer to a completion that must be taken.
async fn answer(server: &Server, employee: &Employee, more: &Value) -> Value {
    let body = with(json!({ "prompt": PROMPT, "max_tokens": 8 }), more);
    let (status, answer) = server.ask(employee, PATH, body).await;
    assert_eq!(status, 200, "{more}: {answer}");
    answer
}

/// The events of a stream.
async fn events(server: &Server, employee: &Employee, path: &str, body: &Value) -> Vec<Value> {
    let sealed = employee.seal(path, body);
    let stream = server.post(path, &sealed.body).await;
    let frames = employee.open_stream(sealed.id, &stream.text);
    let events = frames.iter().flat_map(|frame| &frame.events);
    events.map(|event| serde_json::from_str(event.get()).unwrap()).collect()
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

#[tokio::test]
async fn a_chat_stream_says_the_role_once_for_each_answer() {
    let (_world, server, employee) = desk().await;
    let body = json!({
        "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 5, "n": 2, "temperature": 1,
        "seed": 1, "stream": true, "stream_options": { "include_usage": true },
    });
    let mut events = events(&server, &employee, CHAT, &body).await;
    let usage = events.pop().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(10)));
    for index in 0..2 {
        let choices: Vec<&Value> = events
            .iter()
            .map(|event| &event["choices"][0])
            .filter(|choice| choice["index"] == index)
            .collect();
        let (first, rest) = choices.split_first().unwrap();
        let (last, pieces) = rest.split_last().unwrap();
        let opening =
            json!({ "index": index, "delta": { "role": "assistant", "content": "" }, "finish_reason": null });
        assert_eq!(**first, opening);
        assert_eq!(**last, json!({ "index": index, "delta": {}, "finish_reason": "length" }));
        assert!(!pieces.is_empty());
        for piece in pieces {
            assert!(piece["delta"].get("role").is_none() && piece["delta"]["content"].is_string(), "{piece}");
        }
    }
    assert!(events.iter().all(|event| event.get("usage").is_none()));
}

#[tokio::test]
async fn counts_come_in_a_stream_only_if_asked_for() {
    let (_world, server, employee) = desk().await;
    for options in
        [json!(null), json!({}), json!({ "include_usage": false }), json!({ "include_usage": null })]
    {
        let body = json!({ "prompt": PROMPT, "max_tokens": 2, "stream": true, "stream_options": options });
        let events = events(&server, &employee, PATH, &body).await;
        assert!(events.iter().all(|event| event.get("usage").is_none() && event["choices"][0].is_object()));
    }
}

#[tokio::test]
async fn what_clients_leave_empty_or_write_otherwise_is_the_same_request() {
    let (_world, server, employee) = desk().await;
    let plain = answer(&server, &employee, &json!({})).await["choices"].clone();
    for more in [
        json!({ "prompt": [PROMPT] }),
        json!({ "max_tokens": 8.0 }),
        json!({ "max_tokens": null, "max_completion_tokens": 8 }),
        json!({ "max_completion_tokens": 8 }),
        // As LangChain sends it.
        json!({ "n": 1, "frequency_penalty": 0, "presence_penalty": 0, "logprobs": null, "seed": null, "top_p": 1 }),
        json!({ "stop": null, "suffix": null, "echo": null, "stream": null, "logit_bias": null, "user": null }),
        json!({ "stop": "", "logit_bias": {}, "best_of": 1, "temperature": 0.0, "deadline_ms": 60_000 }),
        json!({ "seed": -1 }),
        json!({ "seed": u64::MAX }),
        json!({ "seed": i64::MIN }),
    ] {
        assert_eq!(answer(&server, &employee, &more).await["choices"], plain, "{more}");
    }
    let said =
        |content: Value| json!({ "messages": [{ "role": "user", "content": content }], "max_tokens": 4 });
    let (_, whole) = server.ask(&employee, CHAT, said(json!("ab"))).await;
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    let (status, parts) = server.ask(&employee, CHAT, said(parts)).await;
    assert_eq!((status, &parts["choices"]), (200, &whole["choices"]));
}

#[tokio::test]
async fn a_seed_of_64_bits_repeats_itself_whatever_its_sign() {
    let (_world, server, employee) = desk().await;
    let mut texts = Vec::new();
    for seed in [json!(-1), json!(-1), json!(u64::MAX), json!(-2)] {
        let more = json!({ "temperature": 1.5, "seed": seed });
        texts.push(text(&answer(&server, &employee, &more).await).to_owned());
    }
    assert_eq!(texts[0], texts[1]);
    assert_eq!(texts[0], texts[2], "the same bits");
    assert_ne!(texts[0], texts[3]);
}

#[tokio::test]
async fn a_refusal_names_the_member_under_the_seal() {
    let (_world, server, employee) = desk().await;
    for (path, body, param) in [
        (PATH, json!({}), "prompt"),
        (PATH, json!({ "prompt": [1, 2] }), "prompt"),
        (PATH, json!({ "prompt": ["canary", "canary"] }), "prompt"),
        (PATH, json!({ "prompt": "canary", "top_p": "canary" }), "top_p"),
        (PATH, json!({ "prompt": "canary", "max_tokens": "16" }), "max_tokens"),
        (PATH, json!({ "prompt": "canary", "max_tokens": 4, "max_completion_tokens": 5 }), "max_tokens"),
        (PATH, json!({ "prompt": "canary", "presence_penalty": 0.5 }), "presence_penalty"),
        (PATH, json!({ "prompt": "canary", "middle": "canary" }), "middle"),
        (PATH, json!({ "prompt": "canary", "stop": [""] }), "stop"),
        (PATH, json!({ "prompt": "canary", "context": [{ "path": "canary" }] }), "context[0].text"),
        (CHAT, json!({ "messages": "canary" }), "messages"),
        (CHAT, json!({ "messages": [{ "role": "tool", "content": "canary" }] }), "messages[0].role"),
        (CHAT, json!({ "messages": [{ "role": "user", "content": 7 }] }), "messages[0].content"),
        (
            CHAT,
            json!({ "messages": [{ "role": "user", "content": "canary" }], "tool_choice": "required" }),
            "tool_choice",
        ),
    ] {
        let (status, answer) = server.ask(&employee, path, body).await;
        let error = &answer["error"];
        assert_eq!(
            (status, &error["code"], &error["param"]),
            (422, &json!("invalid_parameter"), &json!(param))
        );
        assert_eq!(error["type"], "invalid_request_error");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("{param} ")) && !message.contains("canary"), "{message}");
    }
    let (status, answer) = server.ask(&employee, PATH, json!(["canary"])).await;
    assert_eq!((status, &answer["error"]["code"]), (400, &json!("invalid_request")));
}

#[tokio::test]
async fn no_new_tokens_read_the_prompt_into_the_cache() {
    let (_world, server, employee) = desk().await;
    let prompt = "x = [1, 2, 3]\n".repeat(20);
    let none = answer(&server, &employee, &json!({ "prompt": prompt, "max_tokens": 0, "n": 2 })).await;
    assert_eq!((text(&none), &none["choices"][1]["finish_reason"]), ("", &json!("length")));
    assert_eq!((&none["usage"]["completion_tokens"], cached(&none)), (&json!(0), 0));
    let tokens = none["usage"]["prompt_tokens"].as_u64().unwrap();
    let warm = answer(&server, &employee, &json!({ "prompt": prompt })).await;
    assert!(cached(&warm) >= (tokens - 1) / 32 * 32, "{} of {tokens}", cached(&warm));

    let body = json!({ "prompt": prompt, "max_tokens": 0, "stream": true, "echo": true,
        "stream_options": { "include_usage": true } });
    let events = events(&server, &employee, PATH, &body).await;
    let (usage, events) = events.split_last().unwrap();
    assert_eq!(cached(usage), cached(&warm));
    let echoed: String = events.iter().map(text).collect();
    assert_eq!(
        (echoed.as_str(), &events.last().unwrap()["choices"][0]["finish_reason"]),
        (&*prompt, &json!("length"))
    );
}

#[tokio::test]
async fn a_prompt_that_grows_by_a_few_tokens_is_read_from_there() {
    let (_world, server, employee) = desk().await;
    let ask = |middle: &str| json!({ "prompt": "x = [1, 2, 3]\n".repeat(20), "suffix": "\nprint(x)\n", "middle": middle, "max_tokens": 2 });
    let first = answer(&server, &employee, &ask("    y = x[")).await;
    let read = first["usage"]["prompt_tokens"].as_u64().unwrap();
    for middle in ["    y = x[0] + ", "    y = x[0] + x[1] - "] {
        let more = answer(&server, &employee, &ask(middle)).await;
        // The last token of the line so far may become another one with what follows it.
        assert!(cached(&more) + 4 >= read, "{} of {read}", cached(&more));
        let again = answer(&server, &employee, &with(ask(middle), &json!({ "seed": 1 }))).await;
        assert_eq!(more["choices"], again["choices"]);
    }
}

#[tokio::test]
async fn another_employee_finds_nothing_in_the_cache() {
    let (world, server, employee) = desk().await;
    let more = json!({ "prompt": "x = [1, 2, 3]\n".repeat(20) });
    answer(&server, &employee, &more).await;
    assert!(cached(&answer(&server, &employee, &more).await) > 0);
    assert_eq!(cached(&answer(&server, &world.employee().await, &more).await), 0);
}

#[tokio::test]
async fn as_many_alternatives_come_as_are_asked_for() {
    let (_world, server, employee) = desk().await;
    for count in [0, 1, 5, 20] {
        // Hot enough that bytes and control tokens are among the tokens and their alternatives.
        let more = json!({ "prompt": "# 한국어 🦀 é\n# ", "logprobs": count, "temperature": 2, "seed": 3,
            "max_tokens": 40 });
        let answer = answer(&server, &employee, &more).await;
        let logprobs = &answer["choices"][0]["logprobs"];
        let list = |name: &str| logprobs[name].as_array().unwrap();
        assert!(list("top_logprobs").iter().all(|top| top.as_object().unwrap().len() == count));
        let tokens: Vec<&str> = list("tokens").iter().map(|token| token.as_str().unwrap()).collect();
        assert_eq!(tokens.concat(), text(&answer));
        let mut offset = 0;
        for (token, at) in tokens.iter().zip(list("text_offset")) {
            assert_eq!(*at, offset);
            offset += token.chars().count();
        }
        let messages = json!([{ "role": "user", "content": "# 한국어 🦀 é" }]);
        let body = json!({ "messages": messages, "logprobs": true, "top_logprobs": count, "temperature": 2, "seed": 3 });
        let (_, answer) = server.ask(&employee, CHAT, body).await;
        let choice = &answer["choices"][0];
        let content = choice["logprobs"]["content"].as_array().unwrap();
        assert!(content.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == count));
        let joined: String = content.iter().map(|token| token["token"].as_str().unwrap()).collect();
        assert_eq!(joined, choice["message"]["content"].as_str().unwrap());
    }
}

#[tokio::test]
async fn the_tokens_of_a_stop_text_are_not_among_those_of_the_answer() {
    let (_world, server, employee) = desk().await;
    let whole = text(&answer(&server, &employee, &json!({})).await).to_owned();
    let stop: String = whole.chars().skip(whole.chars().count() / 2).take(3).collect();
    let stopped = answer(&server, &employee, &json!({ "stop": stop, "logprobs": 1 })).await;
    let tokens = stopped["choices"][0]["logprobs"]["tokens"].as_array().unwrap();
    let joined: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!((joined.as_str(), text(&stopped)), (whole.split(&stop).next().unwrap(), joined.as_str()));
}

#[tokio::test]
async fn an_answer_that_ends_inside_a_character_ends_before_it() {
    let (_world, server, employee) = desk().await;
    let ask = |seed: u64, max_tokens: usize| {
        json!({ "prompt": "# 한국어 🦀 é 한국어 🦀 é 한국", "temperature": 1, "seed": seed, "max_tokens": max_tokens,
            "logprobs": 0 })
    };
    // Characters of several tokens, whole in the longer answer: cut the answer within them.
    let (mut cuts, mut seed) = (0, 0);
    while cuts == 0 {
        assert!(seed < 500, "no seed makes a character of several tokens");
        let whole = answer(&server, &employee, &ask(seed, 16)).await;
        let tokens = whole["choices"][0]["logprobs"]["tokens"].as_array().unwrap();
        for end in 1..tokens.len() {
            let within = tokens[end - 1] == ""
                && tokens[end] != ""
                && !tokens[end].as_str().unwrap().contains('\u{fffd}');
            if !within {
                continue;
            }
            cuts += 1;
            let expected: String = tokens[..end].iter().map(|token| token.as_str().unwrap()).collect();
            let cut = answer(&server, &employee, &ask(seed, end)).await;
            assert_eq!(
                (text(&cut), &cut["choices"][0]["finish_reason"]),
                (expected.as_str(), &json!("length"))
            );
            assert_eq!(cut["usage"]["completion_tokens"], end);
            let joined: String = cut["choices"][0]["logprobs"]["tokens"]
                .as_array()
                .unwrap()
                .iter()
                .map(|token| token.as_str().unwrap())
                .collect();
            assert_eq!(joined, expected);
            let streamed = with(ask(seed, end), &json!({ "stream": true, "logprobs": null }));
            let events = events(&server, &employee, PATH, &streamed).await;
            assert_eq!(events.iter().map(text).collect::<String>(), expected);
        }
        seed += 1;
    }
}

/// A server with memory for the keys and values of some hundred tokens: that is its context then.
async fn narrow() -> (World, Server, Employee) {
    let world = World::start().await;
    let engine = EngineConfig { kv_cache_bytes: Some(5 << 20), ..world.config().engine };
    let server = Server::start(ServerConfig { engine, ..world.config() }).await;
    let employee = world.employee().await;
    (world, server, employee)
}

#[tokio::test]
async fn a_prompt_that_is_too_long_is_cut_at_lines_if_that_is_allowed() {
    let (_world, server, employee) = narrow().await;
    let lines = |count: usize| (0..count).map(|n| format!("x{n} = [0.{n}31, 7.{n}]\n")).collect::<String>();
    let (prefix, suffix) = (lines(150), lines(90));
    let body = json!({ "prompt": prefix.clone() + "y =", "suffix": suffix, "max_tokens": 8 });
    let (status, refused) = server.ask(&employee, PATH, body.clone()).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("context_length_exceeded")));
    let message = refused["error"]["message"].as_str().unwrap();
    let limit: usize =
        message.split_once("context of ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    let (status, cut) = server.ask(&employee, PATH, with(body, &json!({ "truncate": "lines" }))).await;
    assert_eq!(status, 200, "{cut}");
    let used = cut["usage"]["prompt_tokens"].as_u64().unwrap() as usize;
    assert!(used + 8 <= limit && used + 8 + limit / 8 > limit, "{used} of {limit}");

    // What is cut begins at a line: the last lines, sent as the whole prompt, have as many tokens and the same answer.
    let ask =
        |prompt: &str, truncate: Value| json!({ "prompt": prompt, "max_tokens": 8, "truncate": truncate });
    let whole = prefix + "y =";
    let (_, cut) = server.ask(&employee, PATH, ask(&whole, json!("lines"))).await;
    let starts: Vec<usize> = whole.match_indices('\n').map(|(at, _)| at + 1).collect();
    let (mut too_long, mut fits) = (0, starts.len() - 1);
    while too_long + 1 < fits {
        let middle = usize::midpoint(too_long, fits);
        let (status, _) =
            server.ask(&employee, PATH, ask(whole.split_at(starts[middle]).1, json!(null))).await;
        *(if status == 200 { &mut fits } else { &mut too_long }) = middle;
    }
    // Each line alone may count a token more than all of them together.
    let mut same = false;
    for start in &starts[fits..(fits + 8).min(starts.len())] {
        let (_, last) = server.ask(&employee, PATH, ask(whole.split_at(*start).1, json!(null))).await;
        same |= last["usage"]["prompt_tokens"] == cut["usage"]["prompt_tokens"]
            && last["choices"] == cut["choices"];
    }
    assert!(same, "{cut}");
}

#[tokio::test]
async fn the_middle_is_where_the_hole_begins() {
    let (_world, server, employee) = desk().await;
    let ask = |middle: &str, max_tokens: usize| {
        json!({ "prompt": "def f():\n", "suffix": "\nprint(f())\n", "middle": middle, "echo": true,
            "max_tokens": max_tokens, "logprobs": 0 })
    };
    let plain = answer(&server, &employee, &ask("", 8)).await;
    let tokens: Vec<&str> = plain["choices"][0]["logprobs"]["tokens"]
        .as_array()
        .unwrap()
        .iter()
        .map(|token| token.as_str().unwrap())
        .collect();
    // What the model writes anyway, given as the beginning of the hole: the answer is the rest of it.
    let mut goes_on = 0;
    for count in 1..tokens.len() {
        let begun = answer(&server, &employee, &ask(&tokens[..count].concat(), 8 - count)).await;
        goes_on += usize::from(text(&begun) == format!("def f():\n{}", tokens[count..].concat()));
    }
    assert!(goes_on > 0, "{tokens:?}");
    let empty = with(ask("    ", 8), &json!({ "suffix": "" }));
    assert_eq!(server.ask(&employee, PATH, empty).await.0, 200);
}

#[tokio::test]
async fn other_files_stand_before_the_prompt_and_go_first_when_there_is_no_room() {
    let (_world, server, employee) = narrow().await;
    let file = |path: &str, lines: usize| json!({ "path": path, "text": "value = 12345\n".repeat(lines) });
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let alone = answer(&server, &employee, &json!({ "suffix": "" })).await;
    let small = json!({ "suffix": "", "context": [file("a/b.py", 3), file("c.py", 2)] });
    let both = answer(&server, &employee, &small).await;
    assert!(tokens(&both) > tokens(&alone) + 2);
    let large = json!({ "suffix": "", "context": [file("large.py", 400), file("c.py", 2)] });
    let body = with(json!({ "prompt": PROMPT, "max_tokens": 8 }), &large);
    let (status, refused) = server.ask(&employee, PATH, body).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("context_length_exceeded")));
    let kept = answer(&server, &employee, &with(large, &json!({ "truncate": "lines" }))).await;
    let one = answer(&server, &employee, &json!({ "suffix": "", "context": [file("c.py", 2)] })).await;
    assert_eq!(tokens(&kept), tokens(&one));
}

#[tokio::test]
async fn a_time_limit_ends_an_answer_with_what_there_is() {
    let world = World::start().await;
    let mut config = world.config();
    config.engine.draft_tokens = 0;
    let (server, employee) = (Server::start(config).await, world.employee().await);
    let body = json!({ "prompt": ENDLESS, "max_tokens": 8000, "deadline_ms": 300 });
    let (status, whole) = server.ask(&employee, PATH, body.clone()).await;
    assert_eq!((status, &whole["choices"][0]["finish_reason"]), (200, &json!("length")), "{whole}");
    let tokens = whole["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(tokens < 8000, "{tokens}");
    let streamed = events(&server, &employee, PATH, &with(body, &json!({ "stream": true }))).await;
    assert_eq!(streamed.last().unwrap()["choices"][0]["finish_reason"], "length");
    assert!(streamed.iter().all(|event| event.get("error").is_none()));
}
