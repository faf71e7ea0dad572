//! Google's sample client and google-cloud-kms against ours.
//!
//! `CODESEAL_PYTHON` names an interpreter that has google-cloud-kms; what redirects it is `tests/python`.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use codeseal::sandbox::{Principal, Sandbox, SandboxConfig};
use tempfile::TempDir;
use tokio::process::Command;

/// Importing Google's packages alone takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The interpreter, with the shim, over `transport` to the sandbox.
fn python(sandbox: &Sandbox, transport: &str) -> Command {
    let interpreter = std::env::var_os("CODESEAL_PYTHON").expect("CODESEAL_PYTHON names an interpreter");
    let mut command = Command::new(interpreter);
    command
        .env("PYTHONPATH", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("KMS_EMULATOR", sandbox.endpoint().trim_start_matches("http://"))
        .env("KMS_TRANSPORT", transport)
        .env("NO_PROXY", "*")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test]
#[ignore = "needs a Python with google-cloud-kms: set CODESEAL_PYTHON"]
async fn googles_python_client_may_encrypt_and_not_decrypt() {
    let dir = TempDir::new().unwrap();
    let sandbox = Sandbox::start(SandboxConfig::for_tests(dir.path())).await.unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/check_kms.py");
    for transport in ["grpc", "rest"] {
        let run = python(&sandbox, transport).arg(&script).arg(sandbox.kms_key()).output();
        let output = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{transport}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(
            printed.lines().collect::<Vec<_>>(),
            ["encrypted True True", "protection True True", "checksum 400", "decrypt 403 True"],
            "{transport}"
        );
    }
    let counts = sandbox.ledger().counts();
    assert_eq!(counts.encrypt[&Principal::Anonymous].granted, 2);
    assert_eq!(counts.decrypt[&Principal::Anonymous].denied, 2);
    sandbox.shutdown().await;
}
