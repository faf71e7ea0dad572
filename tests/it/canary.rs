//! No prompt, completion, key or token in any log, metric or error, at the noisiest level, with everything failing.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use codeseal::sandbox::Fault;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Answer, Employee, Process, World, http};

const CANARY: &str = "canaryXq7";

/// What must be seen nowhere.
struct Forbidden(Vec<(&'static str, String)>);

impl Forbidden {
    fn new(world: &World, employee: &Employee) -> Self {
        let key = employee.dek.to_fernet_key().expose().clone();
        let token = std::fs::read_to_string(world.sandbox.token_file()).unwrap();
        let signature = token.trim().rsplit('.').next().unwrap().to_owned();
        let directory = world.sandbox.token_file().parent().unwrap().to_str().unwrap().to_owned();
        Self(vec![
            ("the prompt", CANARY.to_owned()),
            ("the prompt in base64", BASE64_STANDARD.encode(CANARY)),
            ("the DEK", key.trim_end_matches('=').to_owned()),
            ("the DEK in base64 again", BASE64_STANDARD.encode(&key)),
            ("the wrapped DEK", employee.wrapped.to_base64()),
            ("the attestation token", signature),
            ("a path", directory),
            ("the source's path", env!("CARGO_MANIFEST_DIR").to_owned()),
        ])
    }

    fn check(&self, where_: &str, text: &str) {
        for (what, secret) in &self.0 {
            assert!(!text.contains(secret.as_str()), "{what} is in {where_}:\n{text}");
        }
    }
}

/// Sends everything once: good and bad, on every path. Returns what came back unsealed, and the texts generated.
async fn traffic(address: &str, employee: &Employee) -> (String, Vec<String>) {
    let post = async |path: &str, body: &Value| {
        let request = http().post(format!("http://{address}{path}")).json(body);
        Answer::read(request.send().await.unwrap()).await
    };
    let (mut seen, mut generated) = (String::new(), Vec::new());
    let prompt = format!("def {CANARY}(");
    for (path, body) in [
        ("/v1/completions", json!({ "prompt": prompt, "suffix": CANARY, "stop": [CANARY], "user": CANARY })),
        ("/v1/completions", json!({ "prompt": prompt, "echo": true, "n": 3, "logprobs": 2 })),
        ("/v1/completions", json!({ "prompt": { "not": CANARY } })),
        ("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": prompt }] })),
        ("/v1/chat/completions", json!({ "messages": [{ "role": CANARY, "content": prompt }] })),
    ] {
        let sealed = employee.seal(path, &body);
        let answer = post(path, &sealed.body).await;
        seen += &answer.text;
        if answer.status == 200 {
            let (_, body) = employee.open(sealed.id, &answer);
            let choices = body["choices"].as_array().into_iter().flatten();
            let text = |choice: &Value| {
                choice["text"].as_str().or(choice["message"]["content"].as_str()).map(String::from)
            };
            generated.extend(choices.filter_map(text));
        }
        // Once more, which is a replay, and then against the other path.
        seen += &post(path, &sealed.body).await.text;
        seen += &post("/generate", &sealed.body).await.text;
    }
    let stream = employee.seal("/v1/completions", &json!({ "prompt": prompt, "stream": true }));
    seen += &post("/v1/completions", &stream.body).await.text;
    seen += &post("/generate", &employee.prompt(prompt.as_bytes())).await.text;
    seen += &post("/generate", &employee.prompt(&[prompt.as_bytes(), b"\xff"].concat())).await.text;
    seen += &post("/generate", &json!({ "ciphertext": CANARY, "wrapped_dek": CANARY })).await.text;
    seen += &post("/generate", &json!({ CANARY: CANARY })).await.text;
    seen += &post(&format!("/{CANARY}?{CANARY}={CANARY}"), &json!({ CANARY: CANARY })).await.text;
    (seen, generated)
}

#[tokio::test]
async fn nothing_secret_is_ever_written() {
    let world = World::start().await;
    let employee = world.employee().await;
    for format in ["text", "json"] {
        let mut forbidden = Forbidden::new(&world, &employee);
        let mut flags = world.flags();
        let account = world.sandbox.service_account();
        let noisy = ["--log-level", "trace", "--log-format", format, "--impersonate", account];
        flags.extend(noisy.map(String::from));
        let process = Process::start(&flags).await;
        let (seen, generated) = traffic(&process.address, &employee).await;
        assert_eq!(generated.len(), 5, "some requests succeed");
        forbidden.0.extend(generated.into_iter().map(|text| ("a completion", text)));
        forbidden.check("an answer", &seen);

        for fault in [
            Fault::KmsStatus { status: 503 },
            Fault::KmsCorruptCrc,
            Fault::KmsKeyDisabled,
            Fault::KmsPermissionDenied,
            Fault::StsStatus { status: 400 },
            Fault::StsGarbage,
            Fault::IamStatus { status: 403 },
        ] {
            // A key that the cache does not have yet, wrapped before nothing works any more.
            let another = world.employee().await;
            if fault != Fault::KmsKeyDisabled {
                // A token that is refused within its first second is not replaced: that would end as `denied`.
                world.sandbox.revoke_access_tokens();
            }
            world.sandbox.faults().inject(fault);
            let url = format!("http://{}/generate", process.address);
            let answer = http().post(url).json(&another.prompt(CANARY.as_bytes())).send().await.unwrap();
            let answer = Answer::read(answer).await;
            let status = if fault == Fault::KmsKeyDisabled { 403 } else { 503 };
            assert_eq!(answer.status, status, "{fault:?}: {}", answer.text);
            forbidden.0.extend(Forbidden::new(&world, &another).0);
            forbidden.check("an answer during a fault", &answer.text);
            world.sandbox.faults().clear();
        }
        let metrics = http().get(format!("http://{}/metrics", process.admin_address)).send().await.unwrap();
        let metrics = metrics.text().await.unwrap();
        forbidden.check("the metrics", &metrics);

        assert!(metrics.contains(r#"codeseal_key_failures_total{reason="denied"}"#), "{metrics}");

        process.signal(Signal::TERM);
        let remains = process.remains().await;
        assert_eq!(remains.code, Some(0));
        assert!(remains.stdout.contains("request_finished"), "{}", remains.stdout);
        assert!(remains.stdout.contains("key_version_disabled"), "{}", remains.stdout);
        forbidden.check("stdout", &remains.stdout);
        assert_eq!(remains.stderr, "");
    }
}
