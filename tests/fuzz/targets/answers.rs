//! What a server that lies may answer: sealed or not, whole or as a stream, in whatever pieces. It is opened or refused,
//! never a panic, and what reaches an editor are whole events of JSON.
#![no_main]

use codeseal::client::{Exchange, NextFrame, Session};
use codeseal::protocol::{Call, Dek, FrameWriter, PathKey, Reply, RequestId, SealedRequest, Token, WrappedDek};
use codeseal::proxy::relay;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;

const PATH: &str = "/v1/completions";
const FRAME_BYTES: usize = 1024;
const ASKED: [&str; 3] = [
    r#"{"prompt":"def f(","suffix":")","max_tokens":4,"stop":["\n"],"stream_options":{"include_usage":true}}"#,
    r#"{"input_prefix":"def f(","input_suffix":")","n_predict":4}"#,
    r#"{"messages":[{"role":"user","content":"hi"}],"n":2}"#,
];

fn dek() -> Dek {
    Dek::parse(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").expect("32 bytes")
}

fn exchange() -> Exchange {
    let session = Session::new(dek(), WrappedDek::new(vec![1]).expect("not empty"));
    Exchange::new(&session, PATH, r#"{"prompt":"x"}"#).expect("a call")
}

/// The id of the request, which the server reads under the seal.
fn id(exchange: &Exchange) -> RequestId {
    let request: SealedRequest = serde_json::from_slice(exchange.request()).expect("a sealed request");
    let token = Token::parse(request.ciphertext.as_bytes()).expect("a token");
    let plaintext = dek().for_requests(PATH).open(&token).expect("sealed under this key");
    Call::decode(plaintext.expose()).expect("a call").id
}

fn json(bytes: &[u8]) -> Option<Box<RawValue>> {
    RawValue::from_string(std::str::from_utf8(bytes).ok()?.to_owned()).ok()
}

/// A whole answer: as it is, sealed as it is, and as the body of a reply, which opens to the same JSON.
fn whole(key: &PathKey, data: &[u8]) {
    let exchange = exchange();
    assert!(exchange.whole(data).is_err(), "what is not sealed was taken for an answer");
    let sealed = serde_json::json!({ "ciphertext": key.seal(data) }).to_string();
    exchange.whole(sealed.as_bytes()).ok();
    let Some(body) = json(data) else { return };
    let text = body.get().to_owned();
    let reply = Reply { id: id(&exchange), status: 200, body }.seal(key, 0).expect("JSON");
    let opened = exchange.whole(&serde_json::to_vec(&reply).expect("JSON")).expect("a whole answer");
    assert_eq!(opened.expose(), &text);
}

/// The bytes of a stream. The first byte of a step says what it is.
fn stream(key: &PathKey, id: RequestId, steps: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut writer = FrameWriter::new(id);
    let mut bytes = Vec::new();
    for (kind, data) in steps {
        match kind % 4 {
            // Outside of any seal.
            0 => bytes.extend_from_slice(data),
            // A frame whose plaintext is none of this protocol.
            1 => {
                let mut plaintext = data.clone();
                plaintext.resize(FRAME_BYTES, b' ');
                bytes.extend(format!("data: {}\n\n", key.seal(&plaintext)).into_bytes());
            }
            // A frame with any JSON as its event.
            kind => {
                let mut events: Vec<_> = json(data).into_iter().collect();
                if let Ok(frame) = writer.next_frame(&mut events, kind == 3) {
                    bytes.extend(format!("data: {}\n\n", key.seal(frame.expose())).into_bytes());
                }
            }
        }
    }
    bytes
}

fuzz_target!(|input: (usize, u8, Vec<(u8, Vec<u8>)>)| {
    let (endpoint, cut, steps) = input;
    let key = dek().for_answers(PATH);
    if let Some((_, data)) = steps.first() {
        whole(&key, data);
    }
    let exchange = exchange();
    let bytes = stream(&key, id(&exchange), &steps);
    let mut opener = exchange.stream();
    let mut frames = Vec::new();
    'stream: for chunk in bytes.chunks(usize::from(cut) + 1) {
        if opener.push(chunk).is_err() {
            break;
        }
        loop {
            match opener.next_frame() {
                Ok(NextFrame::Events(events)) => frames.push(events),
                Ok(NextFrame::Incomplete) => break,
                Ok(NextFrame::End) | Err(_) => break 'stream,
            }
        }
    }
    assert_eq!(opener.finish().is_ok(), opener.has_ended());
    for body in ASKED {
        let Some(Ok(relayed)) = relay(endpoint, body.as_bytes(), &frames) else { continue };
        let text = String::from_utf8(relayed.stream).expect("text");
        for line in text.split('\n').filter(|line| !line.is_empty()) {
            let data = if relayed.is_lines { line } else { line.strip_prefix("data: ").expect("an event") };
            assert!(data == "[DONE]" || serde_json::from_str::<Value>(data).is_ok_and(|json| json.is_object()));
        }
        assert!(serde_json::from_str::<Value>(&relayed.whole).is_ok_and(|json| json.is_object()));
    }
});
