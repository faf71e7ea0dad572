//! The edges of HTTP/1.1, byte by byte: what can be read in two ways is refused, half-closed connections are answered.

use std::fmt::Write as _;

use codeseal::sandbox::Fault;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{ENDLESS, Employee, PATIENCE, Sealed, Server, World, until};

const PATH: &str = "/v1/completions";

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(server.service.address()).await.unwrap()
}

/// Reads until the server closes the connection.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = async {
        let mut buffer = [0; 4096];
        // A reset is an end as well.
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..count]);
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("the server closes the connection");
    String::from_utf8(answer).unwrap()
}

/// Sends `bytes` and reads until the server closes the connection.
async fn exchange(server: &Server, bytes: &str) -> String {
    let mut stream = connect(server).await;
    stream.write_all(bytes.as_bytes()).await.unwrap();
    read_to_end(&mut stream).await
}

fn post(body: &Value, more: &str) -> String {
    let body = body.to_string();
    format!("POST {PATH} HTTP/1.1\r\nhost: x\r\n{more}content-length: {}\r\n\r\n{body}", body.len())
}

/// The sealed answer in an HTTP answer with status 200.
fn open(employee: &Employee, sealed: &Sealed, answer: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap();
    let plaintext = employee.unseal(body["ciphertext"].as_str().unwrap());
    let reply: Value = serde_json::from_slice(&plaintext).unwrap();
    assert_eq!(reply["id"], serde_json::to_value(sealed.id).unwrap());
    reply["body"].clone()
}

/// A request that a proxy might read otherwise must end the connection: what follows it is not another request.
#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let world = World::start().await;
    let server = world.server().await;
    let chunks = "2\r\n{}\r\n0\r\n\r\n";
    for (what, head, body, status) in [
        ("gzip before chunked", "host: x\r\ntransfer-encoding: gzip, chunked\r\n", chunks, 501),
        ("chunked twice", "host: x\r\ntransfer-encoding: chunked, chunked\r\n", chunks, 400),
        (
            "two lines",
            "host: x\r\ntransfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
            chunks,
            501,
        ),
        (
            "chunked in two lines",
            "host: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            chunks,
            400,
        ),
        ("chunked, then gzip", "host: x\r\ntransfer-encoding: chunked, gzip\r\n", chunks, 400),
        ("no chunked", "host: x\r\ntransfer-encoding: identity\r\n", chunks, 400),
        ("a parameter", "host: x\r\ntransfer-encoding: chunked;a=b\r\n", chunks, 400),
        ("a length first", "host: x\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n", chunks, 400),
        ("a length last", "host: x\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n", chunks, 400),
        ("two lengths", "host: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n", "{}", 400),
        ("a list of lengths", "host: x\r\ncontent-length: 2, 3\r\n", "{}", 400),
        ("a length with a sign", "host: x\r\ncontent-length: +2\r\n", "{}", 400),
        ("a length below zero", "host: x\r\ncontent-length: -2\r\n", "{}", 400),
        ("a length in hexadecimal", "host: x\r\ncontent-length: 0x2\r\n", "{}", 400),
        ("a length beyond all numbers", "host: x\r\ncontent-length: 99999999999999999999999\r\n", "{}", 400),
        ("a folded line", "host: x\r\na: b\r\n c\r\ncontent-length: 2\r\n", "{}", 400),
        ("a blank before the colon", "host: x\r\ncontent-length : 2\r\n", "{}", 400),
        ("a line without a name", "host: x\r\n: a\r\ncontent-length: 2\r\n", "{}", 400),
        ("a bare CR", "host: x\r\na: b\rcontent-length: 2\r\n", "{}", 400),
        ("a NUL", "host: x\r\na: b\0c\r\ncontent-length: 2\r\n", "{}", 400),
        ("no host", "content-length: 2\r\n", "{}", 400),
        ("two hosts", "host: x\r\nhost: y\r\ncontent-length: 2\r\n", "{}", 400),
        ("a host that is none", "host: x/y\r\ncontent-length: 2\r\n", "{}", 400),
        ("an unknown expectation", "host: x\r\nexpect: 200-ok\r\ncontent-length: 2\r\n", "{}", 417),
    ] {
        let smuggled = "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n";
        let request = format!("POST /generate HTTP/1.1\r\n{head}\r\n{body}{smuggled}");
        let answer = exchange(&server, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: {answer}");
        assert!(!answer.contains("alive"), "{what}: {answer}");
    }
    let old = "POST /generate HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let answer = exchange(&server, old).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "), "{answer}");
    let metrics = server.metrics().await;
    assert!(metrics.contains("{endpoint=\"other\",code=\"invalid_request\"}"), "{metrics}");
}

#[tokio::test]
async fn what_is_unusual_but_clear_is_answered() {
    let world = World::start().await;
    let server = world.server().await;
    for request in [
        "GET http://x/livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHOST:\r\nconnection: close\r\n\r\n",
        "\r\nGET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        "GET /livez HTTP/1.0\r\n\r\n",
    ] {
        let answer = exchange(&server, request).await;
        assert!(answer.split(' ').nth(1) == Some("200") && answer.contains("alive"), "{request}: {answer}");
    }
    for request in ["OPTIONS * HTTP/1.1\r\nhost: x\r\n", "CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n"] {
        let answer = exchange(&server, &format!("{request}connection: close\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{request}: {answer}");
    }
    // A body in chunks is read, as it is when its length is not known.
    let chunked = "transfer-encoding: Chunked\r\nconnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let answer = exchange(&server, &format!("POST /generate HTTP/1.1\r\nhost: x\r\n{chunked}")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("invalid_request"), "{answer}");
}

#[tokio::test]
async fn requests_in_one_write_are_answered_one_after_the_other() {
    let world = World::start().await;
    let server = world.server().await;
    let mut stream = connect(&server).await;
    let mut requests = String::new();
    for path in ["/livez", "/nope", "/readyz"] {
        write!(requests, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    }
    stream.write_all(requests.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_end(&mut stream).await;
    let statuses: Vec<_> =
        answer.split("HTTP/1.1 ").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
    assert_eq!(statuses, ["200", "404", "200"], "{answer}");
}

#[tokio::test]
async fn a_length_over_the_limit_is_refused_before_the_body_is_asked_for() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let large =
        "POST /generate HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100000000\r\n\r\n";
    let answer = exchange(&server, large).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let sealed = employee.seal(PATH, &json!({ "prompt": "x", "max_tokens": 2 }));
    let request = post(&sealed.body, "expect: 100-continue\r\nconnection: close\r\n");
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut stream = connect(&server).await;
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut buffer = vec![0; interim.len()];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(buffer, interim);
    stream.write_all(body.as_bytes()).await.unwrap();
    open(&employee, &sealed, &read_to_end(&mut stream).await);
}

#[tokio::test]
async fn a_client_that_has_finished_sending_gets_its_answer() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    for expect in ["", "expect: 100-continue\r\n"] {
        let sealed = employee.seal(PATH, &json!({ "prompt": "x" }));
        let mut stream = connect(&server).await;
        stream.write_all(post(&sealed.body, expect).as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let answer = read_to_end(&mut stream).await;
        let answer = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&answer);
        let body = open(&employee, &sealed, answer);
        assert_eq!(body["usage"]["completion_tokens"], 16, "{body}");
    }
    let mut stream = connect(&server).await;
    stream.write_all(b"POST /attestation HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "a body that breaks off: {answer}");
}

/// The end comes while the request waits for its key: only a byte from the server tells whether the client has gone.
#[tokio::test]
async fn a_client_that_finishes_sending_later_gets_its_answer_and_one_that_leaves_is_cancelled() {
    let world = World::start().await;
    let server = world.server().await;
    for leaves in [false, true] {
        let employee = world.employee().await;
        world.sandbox.faults().inject(Fault::KmsHang);
        let sealed = employee.seal(PATH, &json!({ "prompt": "x" }));
        let mut stream = connect(&server).await;
        stream.write_all(post(&sealed.body, "").as_bytes()).await.unwrap();
        let in_flight = async |number: usize| {
            let line = format!("codeseal_requests_in_flight {number}\n");
            until("it is in flight, or no more", async || server.metrics().await.contains(&line)).await;
        };
        in_flight(1).await;
        if leaves {
            drop(stream);
            in_flight(0).await;
            world.sandbox.faults().clear();
        } else {
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), b'H', "it begins early");
            world.sandbox.faults().clear();
            open(&employee, &sealed, &format!("H{}", read_to_end(&mut stream).await));
        }
    }
    let metrics = server.metrics().await;
    for code in ["cancelled", "ok"] {
        let line = format!("codeseal_requests_total{{endpoint=\"completions\",code=\"{code}\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_model_whether_or_not_it_half_closed_first() {
    let world = World::start().await;
    let mut config = world.config();
    (config.engine.max_running, config.engine.max_waiting, config.engine.draft_tokens) = (1, 0, 0);
    let (server, employee) = (Server::start(config).await, world.employee().await);
    for (half_closes, streams, pipelined) in
        [(false, false, ""), (true, false, ""), (false, false, "GET /livez HTTP/1.1\r\n"), (true, true, "")]
    {
        let body = json!({ "prompt": ENDLESS, "stream": streams, "max_tokens": 8000 });
        let sealed = employee.seal(PATH, &body);
        let mut stream = connect(&server).await;
        stream.write_all(post(&sealed.body, "").as_bytes()).await.unwrap();
        let running = async |number: usize| {
            let line = format!("codeseal_num_requests_running {number}\n");
            until("it runs, or no more", async || server.metrics().await.contains(&line)).await;
        };
        running(1).await;
        stream.write_all(pipelined.as_bytes()).await.unwrap();
        if half_closes {
            stream.shutdown().await.unwrap();
            assert!(server.metrics().await.contains("codeseal_num_requests_running 1\n"));
        }
        // The next frame finds out. Of a whole answer nothing but the early letter is sent: a client that has read it and then
        // leaves is known to have left only when the answer is written.
        if streams {
            assert_eq!(stream.read_u8().await.unwrap(), b'H');
        }
        drop(stream);
        running(0).await;
    }
    server.complete(&employee, "y").await;
}

#[tokio::test]
async fn a_stream_goes_on_after_a_half_close() {
    let world = World::start().await;
    let (server, employee) = (world.server().await, world.employee().await);
    let sealed = employee.seal(PATH, &json!({ "prompt": "x", "stream": true, "max_tokens": 8 }));
    let mut stream = connect(&server).await;
    stream.write_all(post(&sealed.body, "").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "it is whole: {answer}");
}
