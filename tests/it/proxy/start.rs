//! The first start: from nothing, and from a configuration file.

use std::os::unix::net::UnixDatagram;

use tokio::process::Command;

use super::program::{Program, address};
use crate::harness::{PATIENCE, World, clean, http};

#[tokio::test]
async fn without_any_setting_it_says_what_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::from(clean(env!("CARGO_BIN_EXE_codeseal")));
    command.arg("proxy").env("HOME", home.path()).kill_on_drop(true);
    let output = command.output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("--server") && text.contains("configuration file"), "{text}");
    assert!(output.stdout.is_empty());
}

/// The configuration file of `codeseal complete` is enough. The output is the address, the verdict and the next command.
#[tokio::test]
async fn a_configuration_file_is_enough_and_the_manager_is_told() {
    let world = World::start().await;
    let server = world.server().await;
    let home = tempfile::tempdir().unwrap();
    let (key, endpoint) = (world.sandbox.kms_key(), world.sandbox.endpoint());
    let directory = home.path().join(".config/codeseal");
    std::fs::create_dir_all(&directory).unwrap();
    let settings =
        format!("server = '{}'\nkms_key = '{key}'\nsandbox_endpoint = '{endpoint}'\n", server.url(""));
    std::fs::write(directory.join("config.toml"), settings).unwrap();
    let socket = home.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();

    let mut command = clean(env!("CARGO_BIN_EXE_codeseal"));
    command.args(["proxy", "--listen", "127.0.0.1:0"]).env("HOME", home.path()).env("NOTIFY_SOCKET", &socket);
    let mut program = Program::spawn(command);
    let first = program.line().await;
    let url = address(&first);
    assert_eq!(first, format!("codeseal proxy: {url}/ (base URL for OpenAI clients: {url}/v1)"));
    let verdict = format!("connected, not verified (no policy): {}, model tiny", server.url(""));
    assert_eq!(program.line().await, verdict);
    assert_eq!(program.line().await, "next: codeseal proxy status");
    assert_eq!(http().get(format!("{url}/health")).send().await.unwrap().status(), 200);

    let mut told = [0; 64];
    let length =
        tokio::task::spawn_blocking(move || manager.recv(&mut told).map(|length| told[..length].to_vec()));
    assert_eq!(length.await.unwrap().unwrap(), b"READY=1");
}
