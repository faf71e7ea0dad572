//! Runs a program that drives a client through the scenes, and keeps it on loopback.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::conductor::Conductor;
use super::scenes::Scenes;
use crate::harness::{ENDLESS, clean};

/// Importing the packages of a client takes seconds on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(480);

/// A program that drives clients.
pub(super) struct Driver {
    command: std::process::Command,
    home: tempfile::TempDir,
}

impl Driver {
    /// The program that the environment variable names.
    pub(super) fn new(variable: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut command = clean(program(variable));
        command.current_dir(home.path()).env("HOME", home.path()).env("NO_PROXY", "*");
        Self { command, home }
    }

    pub(super) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.arg(argument.into());
        self
    }

    pub(super) fn args(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it fails, takes too long, or if anything in it looks for another machine.
    pub(super) async fn run(self, scenes: &Arc<Scenes>) -> Vec<Value> {
        let guard = build_guard(self.home.path()).await;
        let strayed = self.home.path().join("strayed");
        let this = self.env("LD_PRELOAD", guard).env("LOOPBACK_GUARD_LOG", strayed.as_os_str());
        let reports = this.run_unguarded(scenes).await;
        let strayed = std::fs::read_to_string(strayed).unwrap_or_default();
        assert!(strayed.is_empty(), "a client looks for other machines:\n{strayed}");
        reports
    }

    /// The same for a program whose traffic is watched in another way.
    pub(super) async fn run_unguarded(self, scenes: &Arc<Scenes>) -> Vec<Value> {
        let conductor = Conductor::start(Arc::clone(scenes)).await;
        let mut command = Command::from(self.command);
        command
            .env("CODESEAL_SCENES", scenes.to_json().to_string())
            .env("CODESEAL_SNIPPETS", scenes.dir())
            .env("CODESEAL_CONDUCTOR", &conductor.url)
            .env("CODESEAL_ENDLESS", ENDLESS)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let reports = conductor.reports();
        let output = output.unwrap_or_else(|_| panic!("the driver hangs; so far: {reports:#?}")).unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
        assert!(output.status.success(), "{}\n{}{}", output.status, said[0], said[1]);
        assert!(!reports.is_empty(), "{}{}", said[0], said[1]);
        reports
    }
}

/// A file of the repository.
pub(super) fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(super) fn program(variable: &str) -> OsString {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} names no program: see .ci/run"))
}

/// Compiles the library that refuses to connect to other machines.
async fn build_guard(dir: &Path) -> PathBuf {
    let library = dir.join("loopback.so");
    let mut compiler = Command::from(clean("c++"));
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-o"]).arg(&library);
    compiler.arg(file("tests/editors/loopback.cc")).args(["-ldl"]).kill_on_drop(true);
    let output = compiler.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    library
}
