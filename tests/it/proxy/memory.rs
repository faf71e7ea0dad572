//! Nothing of a prompt is left in the proxy's memory after its request, but what the documentation says is kept.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::post;
use super::program::{Program, address, command};
use crate::harness::{ENDLESS, Server, World, http, until};

/// Read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// The memory of another process.
struct Memory {
    pid: u32,
    file: File,
}

impl Memory {
    /// `None` if the system does not allow it.
    fn of(pid: u32) -> Option<Self> {
        let file = File::open(format!("/proc/{pid}/mem")).ok()?;
        std::fs::File::open(format!("/proc/{pid}/maps")).ok()?;
        Some(Self { pid, file })
    }

    /// The regions that can be written, and with that hold data, as the kernel describes them.
    fn regions(&self) -> Vec<(u64, u64, String)> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let writable =
            maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")));
        let range = |line: &str| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            Some((number(start)?, number(end)?, line.to_owned()))
        };
        writable.filter_map(range).collect()
    }

    /// Which of `needles` are in it, with the regions.
    fn find<'a>(&self, needles: &'a [String]) -> Vec<(&'a str, String)> {
        let longest = needles.iter().map(String::len).max().unwrap();
        let mut found = Vec::new();
        for (start, end, region) in self.regions() {
            let (mut at, mut kept) = (start, Vec::new());
            while at < end {
                let length = CHUNK_BYTES.min(usize::try_from(end - at).unwrap());
                let mut chunk = vec![0; length];
                // A region may go away while it is read.
                let Ok(read) = self.file.read_at(&mut chunk, at) else { break };
                if read == 0 {
                    break;
                }
                at += read as u64;
                kept.extend_from_slice(&chunk[..read]);
                for needle in needles.iter().filter(|needle| contains(&kept, needle.as_bytes())) {
                    found.push((needle.as_str(), region.clone()));
                }
                kept.drain(..kept.len().saturating_sub(longest - 1));
            }
        }
        found
    }
}

/// Whether `needle`, whose first byte is rare, is in `bytes`.
fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == needle[0]) {
        if rest[at..].starts_with(needle) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// Texts of which each stands for one place of one request.
#[derive(Default)]
struct Canaries(Vec<String>);

impl Canaries {
    fn next(&mut self) -> String {
        let canary = format!("~canary{:02}~a_name_that_no_other_text_has", self.0.len());
        self.0.push(canary.clone());
        canary
    }
}

/// Lines of code. Of the text before the cursor some more than 2 KB are kept, and fewer around it.
fn code(lines: usize) -> String {
    (0..lines).map(|line| format!("    value_{line} = compute(value_{}, {line})\n", line / 2)).collect()
}

/// A request of each shape, with canaries where nothing is kept.
fn requests(canaries: &mut Canaries) -> Vec<(&'static str, Value)> {
    let (few, many) = (code(8), code(64));
    let mut text = |after: &str| format!("{few}{} = 1\n{after}", canaries.next());
    let mut pair = || (text(&many), text(&few));
    let pairs: Vec<(String, String)> = (0..16).map(|_| pair()).collect();
    let mut pairs = pairs.into_iter();
    let mut next = || pairs.next().unwrap();
    let whole =
        |(prompt, suffix): (String, String)| json!({ "prompt": prompt, "suffix": suffix, "max_tokens": 4 });
    let chat = |(one, other): (String, String)| json!({ "messages": [{ "role": "user", "content": one }], "stop": [other] });
    let mut streamed = whole(next());
    streamed["stream"] = json!(true);
    let mut long = streamed.clone();
    (long["prompt"], long["suffix"]) = {
        let (prompt, suffix) = next();
        (json!(prompt), json!(suffix))
    };
    long["max_tokens"] = json!(100);
    let mut wrong = whole(next());
    wrong["temperature"] = json!(9);
    let (prefix, suffix) = next();
    let marked = format!("<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>");
    let (tabby, llama, llama_extra, played, ollama) = (next(), next(), next(), next(), next());
    let (listed, other) = next();
    vec![
        ("/v1/completions", whole(next())),
        ("/v1/completions", streamed),
        ("/v1/completions", long),
        ("/v1/completions", json!({ "segments": { "prefix": tabby.0, "suffix": tabby.1 }, "max_tokens": 4 })),
        ("/v1/fim/completions", whole(next())),
        (
            "/infill",
            json!({
                "input_prefix": llama.0, "input_suffix": llama.1, "n_predict": 4,
                "input_extra": [{ "filename": "other.py", "text": llama_extra.1 }],
            }),
        ),
        ("/completion", json!({ "prompt": marked, "n_predict": 4 })),
        ("/api/generate", json!({ "prompt": ollama.0, "suffix": ollama.1, "options": { "num_predict": 4 } })),
        ("/v1/chat/completions", chat(next())),
        ("/playground", json!({ "input_prefix": played.0, "input_suffix": played.1, "n_predict": 4 })),
        ("/tokenize", json!({ "content": other })),
        // Refused.
        ("/v1/completions", json!({ "prompt": { "not": llama_extra.0 } })),
        ("/v1/completions", json!({ "prompt": [listed, "another"] })),
        ("/v1/completions", wrong),
        ("/v1/embeddings", json!({ "input": next().0 })),
        ("/v1/completions", json!({ "prompt": format!("{}{}", next().0, "x".repeat(2 << 20)) })),
    ]
}

#[tokio::test]
async fn no_prompt_is_left_in_memory_after_its_request() {
    let world = World::start().await;
    let mut settings = world.config();
    settings.limits.max_new_tokens = 4000;
    let server = Server::start(settings).await;
    let mut program = Program::spawn(command(&world, &server.url("")));
    let url = address(&program.line().await);
    assert!(program.line().await.starts_with("connected"), "the proxy connects");
    let Some(memory) = Memory::of(program.pid()) else {
        println!("skipped: this account may not read the memory of another process");
        return;
    };

    let mut canaries = Canaries::default();
    for (path, body) in requests(&mut canaries) {
        let answer = post(&url, path, &body).await;
        assert!(answer.status < 500, "{path}: {}", answer.text);
    }
    // Half of a body, and an editor that leaves while the server works.
    let mut half = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let host = url.strip_prefix("http://").unwrap();
    let head = format!("POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9000\r\n\r\n");
    half.write_all(format!("{head}{{\"prompt\":\"{}", canaries.next()).as_bytes()).await.unwrap();
    drop(half);
    let long = json!({ "prompt": format!("{}\n{ENDLESS}", canaries.next()), "max_tokens": 4000 });
    let asking = tokio::spawn(http().post(format!("{url}/v1/completions")).body(long.to_string()).send());
    until("the server works", async || server.metrics().await.contains("codeseal_num_requests_running 1"))
        .await;
    asking.abort();

    // What is kept is found, or nothing here would prove anything: the text right before the cursor of a prediction.
    let kept = [String::from("~canary99~a_name_that_no_other_text_has")];
    let mut is_predicted = false;
    for start in ["def add(a, b):\n    return ", "def ", "import ", "for item in "] {
        let prompt = format!("# {}\n{start}", kept[0]);
        let body = json!({ "prompt": prompt, "suffix": "\n", "max_tokens": 4 });
        let answer = post(&url, "/v1/completions", &body).await.json();
        is_predicted |= !answer["choices"][0]["text"].as_str().unwrap().trim().is_empty();
    }
    assert!(is_predicted, "the model fills none of the holes");
    assert!(!memory.find(&kept).is_empty(), "the search finds nothing");

    // Connections and streams end a moment after the answer.
    let mut found = Vec::new();
    let waiting = async {
        loop {
            found = memory.find(&canaries.0);
            if found.is_empty() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let wiped = tokio::time::timeout(crate::harness::PATIENCE, waiting).await;
    assert!(wiped.is_ok(), "left in memory: {found:#?}");
}
