//! Without a network: `codeseal proxy` in a network namespace of its own, where packets to other machines vanish.

use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::program::Program;
use crate::harness::{clean, until};

/// An address of a range that is kept for documentation.
const NOWHERE: &str = "http://192.0.2.1:8080";
const KEY: &str = "projects/p/locations/global/keyRings/r/cryptoKeys/k";
/// As the kernel's tables write a port of each family, and the state of a socket that listens.
const LOOPBACKS: [(&str, &str); 2] = [("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")];
const LISTENS: &str = "0A";

/// `unshare` with the flags that this account may use, if any.
fn unshare() -> Option<std::process::Command> {
    for flags in [&["-n"][..], &["-r", "-n"]] {
        let mut command = clean("unshare");
        command.args(flags);
        let mut probe = clean("unshare");
        probe.args(flags).args(["ip", "link", "add", "black", "type", "dummy"]);
        let done = probe.stdin(Stdio::null()).stderr(Stdio::null()).status();
        if done.is_ok_and(|status| status.success()) {
            return Some(command);
        }
    }
    None
}

/// Status and body of a request over the Unix socket, which no network namespace bounds.
async fn ask(socket: &Path, method: &str, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// TCP connections that the processes in the namespace of `pid` have begun.
fn attempts(pid: u32) -> u64 {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap();
    let mut rows = table.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "ActiveOpens").unwrap().1.parse().unwrap()
}

/// Whether a socket in the namespace of `pid` listens there.
fn listens(pid: u32, table: &str, address: &str, port: u16) -> bool {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let local = format!("{address}:{port:04X}");
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&LISTENS)
    })
}

#[tokio::test]
async fn keys_begin_no_connection_and_the_usual_ports_are_open() {
    let Some(mut command) = unshare() else {
        println!("skipped: this account may not make a network namespace, or there is no `ip`");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("proxy.sock");
    // A device that swallows what is sent through it.
    let set_up = "ip link set lo up && ip link add black type dummy && ip addr add 192.0.2.2/24 dev black \
                  && ip link set black up && exec \"$0\" \"$@\"";
    command.args(["sh", "-c", set_up, env!("CARGO_BIN_EXE_codeseal")]);
    command.args(["proxy", "--ollama", "--socket"]).arg(&socket);
    command.args(["--server", NOWHERE, "--kms-key", KEY, "--sandbox-endpoint", NOWHERE]);
    let mut program = Program::spawn(command);
    let pid = program.pid();
    program.line().await;
    let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
    for (table, address) in LOOPBACKS.into_iter().take(if has_ipv6 { 2 } else { 1 }) {
        for port in [8012, 11434] {
            assert!(listens(pid, table, address, port), "{table} {port}");
        }
    }
    until("the first attempt is under way", async || attempts(pid) > 0).await;
    let before = attempts(pid);
    for _ in 0..200 {
        for path in ["/infill", "/api/generate"] {
            let answer = ask(&socket, "POST", path, r#"{"prompt":"x","input_prefix":"x"}"#).await;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        }
    }
    // The background may have begun another attempt meanwhile.
    let begun = attempts(pid) - before;
    assert!(begun <= 20, "{begun} connections for 400 requests");
    let status = ask(&socket, "GET", "/status", "").await;
    assert!(status.starts_with("HTTP/1.1 200 ") && status.contains("\"ready\":false"), "{status}");
}
