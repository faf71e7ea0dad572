//! `codeseal proxy` as a process of its own.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::harness::{PATIENCE, World, clean};

/// It is killed when this is dropped.
pub(super) struct Program {
    pub(super) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    /// Starts `command`, which is or becomes `codeseal proxy`.
    pub(super) fn spawn(mut command: std::process::Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut command = Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line of its output.
    pub(super) async fn line(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.lines.next_line()).await.unwrap().unwrap().expect("a line")
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }
}

/// `codeseal proxy` for the server at `server`, on any free port.
pub(super) fn command(world: &World, server: &str) -> std::process::Command {
    let mut command = clean(env!("CARGO_BIN_EXE_codeseal"));
    command.args(["proxy", "--listen", "127.0.0.1:0", "--server", server]);
    command.args(["--kms-key", world.sandbox.kms_key(), "--sandbox-endpoint", world.sandbox.endpoint()]);
    command
}

/// The address in the first line of its output.
pub(super) fn address(line: &str) -> String {
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    url.trim_end_matches('/').to_owned()
}
