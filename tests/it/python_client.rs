//! Clients that share no code with ours: Google's KMS library, `cryptography`, and Google's sample client.
//!
//! They need packages that a fresh machine lacks (`tests/python/requirements.txt`), so these tests are ignored until
//! `CODESEAL_PYTHON` names an interpreter that has them; `.ci/run` makes one. With `CODESEAL_SAMPLE_CLIENT` naming the
//! codelab's `sample_inference_client.py`, that very file is run as well. What redirects them is `tests/python`.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use codeseal::sandbox::{Principal, Sandbox};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use crate::harness::{Server, World, clean};

const PROMPT: &str = "def 피보나치(n):  # 🦀";
const TRANSPORTS: [&str; 2] = ["grpc", "rest"];
/// Importing Google's packages alone takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// The key's name as the sample client spells it before the codelab's scripts put real names in.
const PLACEHOLDER_KEY: &str = "projects/PRIMUS_PROJECT_ID_VALUE/locations/PRIMUS_PROJECT_LOCATION_VALUE/\
    keyRings/PRIMUS_KEYRING_VALUE/cryptoKeys/PRIMUS_KEY_ID_VALUE";

#[tokio::test]
#[ignore = "needs a Python with google-cloud-kms: set CODESEAL_PYTHON"]
async fn googles_library_may_encrypt_and_not_decrypt() {
    let world = World::start().await;
    for transport in TRANSPORTS {
        let command = python(&world.sandbox, transport, &script("check_kms.py"), &[world.sandbox.kms_key()]);
        let printed = printed(command, "").await;
        let expected = ["encrypted True True", "protection True True", "checksum 400", "decrypt 403 True"];
        assert_eq!(printed.lines().collect::<Vec<_>>(), expected, "{transport}");
    }
    let counts = world.sandbox.ledger().counts();
    assert_eq!(counts.encrypt[&Principal::Anonymous].granted, 2);
    assert_eq!(counts.decrypt[&Principal::Anonymous].denied, 2);
}

#[tokio::test]
#[ignore = "needs a Python with google-cloud-kms: set CODESEAL_PYTHON"]
async fn an_employee_in_python_gets_a_completion() {
    let world = World::start().await;
    let server = world.server().await;
    let expected = expected(&world, &server).await;
    for transport in TRANSPORTS {
        let arguments = [world.sandbox.kms_key(), &server.url("")];
        let command = python(&world.sandbox, transport, &script("employee.py"), &arguments);
        assert_eq!(printed(command, PROMPT).await, expected, "{transport}");
    }
}

#[tokio::test]
#[ignore = "needs a Python with google-cloud-kms and the codelab's file: set CODESEAL_PYTHON and CODESEAL_SAMPLE_CLIENT"]
async fn googles_sample_client_unmodified_gets_its_completion() {
    let Some(sample) = std::env::var_os("CODESEAL_SAMPLE_CLIENT").map(PathBuf::from) else {
        eprintln!("CODESEAL_SAMPLE_CLIENT is not set: nothing to run");
        return;
    };
    let world = World::with(|config| PLACEHOLDER_KEY.clone_into(&mut config.kms_key)).await;
    let server = world.server().await;
    let expected = expected(&world, &server).await;
    for transport in TRANSPORTS {
        let mut command = python(&world.sandbox, transport, &sample, &[]);
        command.env("INFERENCE_SERVER", server.service.address().to_string());
        let printed = printed(command, &format!("{PROMPT}\n")).await;
        let (_, decrypted) = printed.split_once("decrypted response:  b").unwrap();
        assert_eq!(decrypted.trim_end(), python_literal(&expected), "{transport}");
    }
}

/// What `/generate` answers to [`PROMPT`].
async fn expected(world: &World, server: &Server) -> String {
    let employee = world.employee().await;
    let text = employee.open_generated(&server.post("/generate", &employee.prompt(PROMPT.as_bytes())).await);
    assert!(text.starts_with(PROMPT) && text.len() > PROMPT.len(), "{text}");
    text
}

/// A program under the interpreter, its KMS library redirected over `transport` to the sandbox.
fn python(sandbox: &Sandbox, transport: &str, program: &Path, arguments: &[&str]) -> Command {
    let interpreter = std::env::var_os("CODESEAL_PYTHON").expect("CODESEAL_PYTHON names an interpreter");
    let mut command = Command::from(clean(interpreter));
    command
        .arg(program)
        .args(arguments)
        .env("PYTHONPATH", script(""))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KMS_EMULATOR", sandbox.endpoint().trim_start_matches("http://"))
        .env("KMS_TRANSPORT", transport)
        .env("NO_PROXY", "*")
        .kill_on_drop(true);
    command
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

/// Runs a program that must succeed and returns what it prints.
async fn printed(mut command: Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = async {
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
        child.wait_with_output().await.unwrap()
    };
    let Output { status, stdout, stderr } = tokio::time::timeout(PATIENCE, run).await.unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// How Python prints the bytes of `text`, without the `b`.
fn python_literal(text: &str) -> String {
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
