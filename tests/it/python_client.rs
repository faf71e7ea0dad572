//! Clients that share no code with ours: Google's KMS library and `cryptography`, in Python.
//!
//! They need packages that a fresh machine lacks (`tests/python/requirements.txt`), so these tests are ignored until
//! `CODESEAL_TEST_PYTHON` names an interpreter that has them; `.ci/run` makes one. With `CODESEAL_SAMPLE_CLIENT` naming
//! the codelab's `sample_inference_client.py`, that very file is run as well.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::harness::{PATIENCE, Server, World};

const PROMPT: &str = "def 피보나치(n):  # 🦀";
const TRANSPORTS: [&str; 2] = ["grpc", "rest"];

#[tokio::test]
#[ignore = "needs Python packages, see the module's documentation"]
async fn an_employee_with_googles_library_gets_a_completion() {
    let world = World::start().await;
    let server = world.server().await;
    let expected = expected(&world, &server).await;
    for transport in TRANSPORTS {
        let kms = world.sandbox.endpoint().trim_start_matches("http://");
        let arguments = [transport, kms, world.sandbox.kms_key(), server.url("").as_str()].map(str::to_owned);
        let printed = run(&script("employee.py"), &arguments, &[], PROMPT).await;
        assert_eq!(printed, expected, "{transport}");
    }
}

#[tokio::test]
#[ignore = "needs Python packages and the codelab's file, see the module's documentation"]
async fn googles_sample_client_gets_its_completion() {
    let Some(sample) = std::env::var_os("CODESEAL_SAMPLE_CLIENT") else {
        eprintln!("CODESEAL_SAMPLE_CLIENT is not set: nothing to run");
        return;
    };
    let world = World::start().await;
    let server = world.server().await;
    let expected = expected(&world, &server).await;
    let dir = tempfile::tempdir().unwrap();
    let client = dir.path().join("inference_client.py");
    let source = set_up(&std::fs::read_to_string(sample).unwrap(), world.sandbox.kms_key(), &server);
    std::fs::write(&client, source).unwrap();
    for transport in TRANSPORTS {
        let shim = script("").display().to_string();
        let kms = world.sandbox.endpoint().trim_start_matches("http://");
        let environment = [("PYTHONPATH", shim.as_str()), ("KMS_EMULATOR", kms), ("KMS_TRANSPORT", transport)];
        let printed = run(&client, &[], &environment, &format!("{PROMPT}\n")).await;
        let (_, decrypted) = printed.split_once("decrypted response:  b").unwrap();
        assert_eq!(decrypted.trim_end(), python_bytes(&expected), "{transport}");
    }
}

/// What `/generate` answers to [`PROMPT`].
async fn expected(world: &World, server: &Server) -> String {
    let employee = world.employee().await;
    let text = employee.open_generated(&server.post("/generate", &employee.prompt(PROMPT.as_bytes())).await);
    assert!(text.starts_with(PROMPT) && text.len() > PROMPT.len(), "{text}");
    text
}

/// The substitutions that the codelab's `setup_client.sh` makes with sed, and the port.
fn set_up(sample: &str, key: &str, server: &Server) -> String {
    let names: Vec<&str> = key.split('/').collect();
    let [_, project, _, location, _, key_ring, _, key] = names.as_slice() else { panic!("{key}") };
    let address = server.service.address().to_string();
    [
        ("INFERENCE_SERVER_IP_VALUE:8080", address.as_str()),
        ("PRIMUS_PROJECT_ID_VALUE", project),
        ("PRIMUS_PROJECT_LOCATION_VALUE", location),
        ("PRIMUS_KEYRING_VALUE", key_ring),
        ("PRIMUS_KEY_ID_VALUE", key),
    ]
    .into_iter()
    .fold(sample.to_owned(), |source, (placeholder, value)| {
        assert!(source.contains(placeholder), "{placeholder}");
        source.replace(placeholder, value)
    })
}

/// How Python prints bytes.
fn python_bytes(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let escaped = text.bytes().map(|byte| match byte {
        b'\n' => String::from("\\n"),
        b'\r' => String::from("\\r"),
        b'\t' => String::from("\\t"),
        b'\\' => String::from("\\\\"),
        b'\'' if quote == '\'' => String::from("\\'"),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    });
    format!("{quote}{}{quote}", escaped.collect::<String>())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

/// Runs a Python program and returns what it prints.
async fn run(program: &Path, arguments: &[String], environment: &[(&str, &str)], input: &str) -> String {
    let python = std::env::var_os("CODESEAL_TEST_PYTHON").expect("CODESEAL_TEST_PYTHON names an interpreter");
    let mut child = Command::new(python)
        .arg(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
