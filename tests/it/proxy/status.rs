//! `GET /status` and `codeseal proxy status`: the JSON is as `docs/status.schema.json` says in every state, and the command exits
//! with the code of that state.

use codeseal::proxy::{Golden, Proxy, ProxyConfig, Repository};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;

use super::schema::violations;
use super::verify::{OTHER, good, verifying};
use super::{config, post, url};
use crate::harness::{World, clean, http, until};

const SCHEMA: &str = include_str!("../../../docs/status.schema.json");

/// Exit code and output of `codeseal proxy status`.
async fn command(url: &str, flags: &[&str]) -> (i32, String) {
    let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
    command.args(["proxy", "status", "--url", url]).args(flags).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// The state, as the command prints it, after it was checked.
async fn checked(url: &str) -> Value {
    let (code, text) = command(url, &["--json"]).await;
    let status: Value = serde_json::from_str(&text).unwrap();
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let wrong = violations(&schema, &schema, &status, "");
    assert!(wrong.is_empty(), "{wrong:#?}\n{status:#}");
    assert_eq!(status["exit_code"], code, "{status:#}");
    assert_eq!(status["ready"], code == 0, "{status:#}");
    // The same for people.
    assert_eq!(command(url, &[]).await.0, code);
    status
}

#[tokio::test]
async fn a_proxy_that_has_never_connected_says_so() {
    let world = World::start().await;
    // Connections are accepted by the system, and never answered.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let starting = Proxy::start(config(&world, &silent)).await.unwrap();
    let status = checked(&url(&starting)).await;
    assert_eq!((&status["servers"][0]["state"], &status["exit_code"]), (&json!("starting"), &json!(3)));

    let down = Proxy::start(config(&world, "http://127.0.0.1:1")).await.unwrap();
    down.tried().await;
    post(&url(&down), "/v1/completions", &json!({ "prompt": "x" })).await;
    let status = checked(&url(&down)).await;
    assert_eq!((&status["servers"][0]["state"], &status["exit_code"]), (&json!("not_connected"), &json!(3)));
    assert_eq!(status["counts"]["last_error"]["code"], "not_connected");
}

#[tokio::test]
async fn every_state_with_a_server_fits_the_schema() {
    let world = World::start().await;
    let server = world.server().await;
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let repository = tempfile::tempdir().unwrap();
    std::fs::create_dir(repository.path().join(".git")).unwrap();
    for (name, text) in [("main.py", "import prices\n"), ("prices.py", "first_price = 1\nsecond_price = 2\n")]
    {
        std::fs::write(repository.path().join(name), text).unwrap();
    }
    let settings = ProxyConfig {
        repository: Some(Repository::open(repository.path()).unwrap()),
        ..verifying(&world, &server, &first, &good())
    };
    let verified = Proxy::start(settings).await.unwrap();
    verified.ready().await;
    let hole = json!({ "segments": { "prefix": "import prices\n", "suffix": "\n", "filepath": "main.py" }, "max_tokens": 1 });
    until("a file goes with a prompt", async || {
        post(&url(&verified), "/v1/completions", &hole).await;
        let status = http().get(format!("{}/status", url(&verified))).send().await.unwrap();
        status.json::<Value>().await.unwrap()["context"]["files"] != json!([])
    })
    .await;
    post(&url(&verified), "/v2", &json!({})).await;
    let status = checked(&url(&verified)).await;
    assert_eq!((&status["servers"][0]["state"], &status["verifies"]), (&json!("verified"), &json!(true)));
    assert_eq!(status["servers"][0]["verdict"]["trusted"], true);
    assert_eq!(status["context"]["files"], json!([{ "path": "prices.py", "bytes": 33 }]));

    let refused = Proxy::start(verifying(&world, &server, &second, OTHER)).await.unwrap();
    refused.tried().await;
    let status = checked(&url(&refused)).await;
    assert_eq!((&status["servers"][0]["state"], &status["exit_code"]), (&json!("not_verified"), &json!(27)));

    let connected = Proxy::start(config(&world, &server.url(""))).await.unwrap();
    connected.ready().await;
    let status = checked(&url(&connected)).await;
    assert_eq!((&status["servers"][0]["state"], &status["exit_code"]), (&json!("connected"), &json!(0)));
    assert_eq!((&status["policy"], &status["verifies"]), (&Value::Null, &json!(false)));

    let mut settings = config(&world, &server.url(""));
    settings.golden = Golden::new("x".to_owned(), String::new(), "not this".to_owned()).unwrap();
    let failing = Proxy::start(settings).await.unwrap();
    failing.tried().await;
    let status = checked(&url(&failing)).await;
    assert_eq!((&status["servers"][0]["state"], &status["exit_code"]), (&json!("model_failed"), &json!(1)));
}

#[test]
fn the_schema_lists_every_member() {
    fn closed(schema: &Value, at: &str) {
        match schema {
            Value::Object(members) => {
                if members.get("type") == Some(&json!("object")) {
                    assert!(members.contains_key("additionalProperties"), "{at} is open");
                }
                members.iter().for_each(|(name, member)| closed(member, &format!("{at}/{name}")));
            }
            Value::Array(items) => items.iter().for_each(|item| closed(item, at)),
            _ => {}
        }
    }
    closed(&serde_json::from_str(SCHEMA).unwrap(), "");
}
