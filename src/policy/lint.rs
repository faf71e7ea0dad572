//! The lint: what an image lets its operator do, and what of that is dangerous.
//!
//! Judged as the launcher would: the preview's image and today's differ in which labels they know, and in who may
//! read the attestation token.

use std::fmt;

use serde::Serialize;

use super::image::{Command, Image, Kind, Set};
use super::labels::{Label, Meaning, PREFIX, Watched, When};
use super::names::{Danger, hides};

pub use super::labels::Launcher;
pub use super::names::{KNOWN, Known};

mod others;
mod ports;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// For the reader; the image may be meant so.
    Note,
    /// It weakens the image, or is a mistake.
    Warning,
    /// The operator can get at what is secret, or the launch is refused.
    Error,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// Its name, which does not change.
    pub code: String,
    /// The line of the Dockerfile.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub message: String,
}

/// A label of the launch policy, explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// The whole label.
    pub label: String,
    /// Its value; `None` where the default holds.
    pub value: Option<String>,
    /// What the preview's launcher makes of it.
    pub preview: String,
    /// What today's launcher makes of it.
    pub current: String,
}

/// What the lint has to say about an image.
#[derive(Clone, Debug, Serialize)]
pub struct LintReport {
    /// What the image was read from.
    pub from: Kind,
    /// The launcher that it is judged for.
    pub launcher: Launcher,
    /// Every label, set or not.
    pub labels: Vec<Explained>,
    /// The ports that the launcher opens.
    pub ports: Vec<String>,
    /// The worst first.
    pub findings: Vec<Finding>,
}

/// Lints `image` for `launcher`. What `image` sets and `dockerfile` does not is called inherited.
pub fn lint(image: &Image, dockerfile: Option<&Image>, launcher: Launcher) -> LintReport {
    let mut findings = findings(image, dockerfile, launcher);
    for other in &image.others {
        let theirs = others::findings(image, other, |image| self::findings(image, dockerfile, launcher));
        findings.extend(theirs.into_iter().filter(|theirs| !findings.contains(theirs)).collect::<Vec<_>>());
    }
    findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.line));
    LintReport {
        from: image.kind,
        launcher,
        labels: explained(image),
        ports: image
            .ports
            .iter()
            .map(|port| &port.value)
            .filter(|port| ports::opened(port).is_ok())
            .cloned()
            .collect(),
        findings,
    }
}

/// What is to be said of one builder's image.
fn findings(image: &Image, dockerfile: Option<&Image>, launcher: Launcher) -> Vec<Finding> {
    let mut lint = Lint { launcher, findings: Vec::new() };
    lint.labels(image);
    lint.ports(image, dockerfile);
    lint.environment(image, dockerfile);
    lint.process(image);
    lint.base(image);
    lint.findings
}

impl LintReport {
    /// Whether there is nothing worse than notes.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| finding.level == Level::Note)
    }
}

fn explained(image: &Image) -> Vec<Explained> {
    let known = Label::ALL.into_iter().map(|label| {
        let value = image.labels.get(&format!("{PREFIX}{}", label.name())).map(|set| set.value.as_str());
        let for_launcher = |launcher| match value {
            _ if !label.known_to(launcher) => "not known to it: ignored".to_owned(),
            None if label == Label::MonitoringMemoryAllow && launcher == Launcher::Current => {
                "hardened_monitoring and debug_monitoring decide".to_owned()
            }
            None => label.explain(&label.default()),
            Some(value) => label
                .read(value)
                .map_or_else(|| "the launch is refused".into(), |meaning| label.explain(&meaning)),
        };
        Explained {
            label: format!("{PREFIX}{}", label.name()),
            value: value.map(str::to_owned),
            preview: for_launcher(Launcher::Preview),
            current: for_launcher(Launcher::Current),
        }
    });
    known.collect()
}

struct Lint {
    launcher: Launcher,
    findings: Vec<Finding>,
}

impl Lint {
    fn find(
        &mut self,
        level: Level,
        code: impl Into<String>,
        line: Option<usize>,
        message: impl Into<String>,
    ) {
        self.findings.push(Finding { level, code: code.into(), line, message: message.into() });
    }

    fn labels(&mut self, image: &Image) {
        self.cmd_override(image);
        for (name, set) in &image.labels {
            let lower = name.to_ascii_lowercase();
            let Some(rest) = lower.strip_prefix(PREFIX) else { continue };
            match Label::of(rest).filter(|_| lower == *name) {
                Some(label) => self.label(label, set),
                None => self.find(
                    Level::Error,
                    "unknown-label",
                    set.line,
                    format!("no launcher knows the label {name}: it is ignored, and the default holds"),
                ),
            }
        }
        let is_set = |label: Label| image.labels.get(&format!("{PREFIX}{}", label.name()));
        if let Some(old) = is_set(Label::MonitoringMemoryAllow)
            && self.launcher == Launcher::Current
        {
            let mixed = is_set(Label::HardenedMonitoring).or(is_set(Label::DebugMonitoring)).is_some();
            let (level, code) = if mixed {
                (Level::Error, "monitoring-mixed")
            } else {
                (Level::Warning, "monitoring-deprecated")
            };
            let what =
                "monitoring_memory_allow is the preview's: use hardened_monitoring and debug_monitoring";
            let end = if mixed { "; with both, the launch is refused" } else { "" };
            self.find(level, code, old.line, format!("{what}{end}"));
        }
    }

    fn label(&mut self, label: Label, set: &Set<String>) {
        let (name, line) = (label.name(), set.line);
        if !label.known_to(self.launcher) {
            let message = format!("the preview's launcher does not know {name}: it is ignored");
            return self.find(Level::Note, "label-not-known", line, message);
        }
        let Some(meaning) = label.read(&set.value) else {
            let message =
                format!("{name} takes {}, not {:?}: the launch is refused", label.takes(), set.value);
            return self.find(Level::Error, "bad-value", line, message);
        };
        match (label, meaning) {
            (Label::AllowEnvOverride, Meaning::Names(names)) => {
                names.iter().for_each(|name| self.override_of(name, line));
            }
            (Label::AllowMountDestinations, Meaning::Names(paths)) => {
                paths.iter().for_each(|path| self.mount(path, line));
            }
            (Label::LogRedirect, Meaning::When(When::Always)) => {
                let message =
                    "the operator reads standard output and error in production: use debugonly or never";
                self.find(Level::Error, "log-redirect-always", line, message);
            }
            (Label::MonitoringMemoryAllow, Meaning::When(When::Always))
            | (Label::HardenedMonitoring, Meaning::Watched(Watched::Memory | Watched::Everything)) => {
                let message =
                    format!("{name}: the operator watches what a production workload uses, and when");
                self.find(Level::Warning, "monitoring", line, message);
            }
            (Label::AllowCapabilities, Meaning::Flag(true)) => {
                let message = "the operator may give the workload capabilities that it was not written for";
                self.find(Level::Error, "capabilities", line, message);
            }
            (Label::AllowCgroups, Meaning::Flag(true)) => {
                let message = "the operator may give the workload a cgroup name space: set it to false";
                self.find(Level::Warning, "cgroups", line, message);
            }
            _ => {}
        }
    }

    /// The launcher refuses arguments of the operator's that leave nothing of the image's own.
    fn cmd_override(&mut self, image: &Image) {
        let label = format!("{PREFIX}{}", Label::AllowCmdOverride.name());
        let Some(set) = image.labels.get(&label) else { return };
        if Label::AllowCmdOverride.read(&set.value) != Some(Meaning::Flag(true)) {
            return;
        }
        if image.entrypoint.is_none() && image.base.is_none() {
            let message =
                "allow_cmd_override has no effect without ENTRYPOINT: a launch with tee-cmd is refused";
            return self.find(Level::Warning, "cmd-override", set.line, message);
        }
        let message = "the operator may replace every argument of the workload: set it to false";
        self.find(Level::Error, "cmd-override", set.line, message);
    }

    fn override_of(&mut self, name: &str, line: Option<usize>) {
        if name.trim() != name || name.contains('=') {
            let message = format!(
                "{name:?} in allow_env_override matches no variable: names are taken as they are, spaces too"
            );
            self.find(Level::Warning, "env-override-name", line, message);
        }
        let (level, code, decides) = match Danger::of(name.trim()) {
            Some(danger) => (Level::Error, format!("env-override-{}", danger.as_str()), danger.decides()),
            None => (Level::Note, "env-override".to_owned(), "a setting"),
        };
        let message = format!(
            "the operator may set {}, which decides {decides}; a hardened condition refuses any override",
            name.trim()
        );
        self.find(level, code, line, message);
    }

    fn mount(&mut self, path: &str, line: Option<usize>) {
        if !path.starts_with('/') {
            let message = format!(
                "{path} in allow_mount_destinations is not absolute: any tee-mount refuses the launch"
            );
            return self.find(Level::Error, "mount-relative", line, message);
        }
        match hides(path) {
            Some(what) => {
                let message = format!("the operator may mount over {path} and so hide {what}");
                self.find(Level::Error, "mount-hides", line, message);
            }
            None => {
                let message =
                    format!("the operator may mount memory at or below {path}; it counts as the VM's own");
                self.find(Level::Note, "mount", line, message);
            }
        }
    }

    fn ports(&mut self, image: &Image, dockerfile: Option<&Image>) {
        if image.ports.is_empty() {
            let message = "no EXPOSE: the launcher opens no port, and no client can reach the workload";
            self.find(Level::Warning, "no-port", None, message);
        }
        let own = |port: &str| dockerfile.is_none_or(|file| ports::are_set(file, port));
        for set in &image.ports {
            let port = set.value.as_str();
            if let Err(problem) = ports::opened(port) {
                let message = format!("{problem}: the launch is refused");
                self.find(Level::Error, "port-refused", set.line, message);
            }
            if !own(port) {
                let message =
                    format!("port {port} is open and comes from the base image: it cannot be closed again");
                self.find(Level::Error, "inherited-port", set.line, message);
            }
            if port.ends_with("/udp") {
                let message = format!(
                    "port {port} is open for UDP, which HTTP does not need: write {}/tcp",
                    number(port)
                );
                self.find(Level::Warning, "udp-port", set.line, message);
            }
        }
        let mut numbers: Vec<&str> = image.ports.iter().map(|set| number(&set.value)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() > 1 {
            let few =
                numbers.get(..8).map_or_else(|| numbers.join(", "), |few| format!("{}, ...", few.join(", ")));
            let message = format!("{} ports are open ({few}): one is enough", numbers.len());
            self.find(Level::Warning, "several-ports", image.ports.last().and_then(|set| set.line), message);
        }
    }

    fn environment(&mut self, image: &Image, dockerfile: Option<&Image>) {
        for (name, set) in &image.env {
            let (line, is_own) = (set.line, dockerfile.is_none_or(|file| file.env.contains_key(name)));
            if !is_own && name != "PATH" {
                let level = if Danger::of(name).is_some() { Level::Warning } else { Level::Note };
                let message = format!("{name} comes from the base image: set it, or choose another base");
                self.find(level, "inherited-env", line, message);
            }
            if ["LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES", "BASH_ENV"].contains(&name.as_str()) {
                let message = format!("{name} loads other code into the workload");
                self.find(Level::Error, "env-code", line, message);
            }
            // Where the launcher puts the driver, and where only it can write.
            if name == "LD_LIBRARY_PATH"
                && !set.value.split(':').all(|path| path.starts_with("/usr/local/nvidia/"))
            {
                let message = "LD_LIBRARY_PATH: only /usr/local/nvidia/lib64 is needed";
                self.find(Level::Warning, "env-code", line, message);
            }
            if name.to_ascii_lowercase().ends_with("_proxy") && !set.value.is_empty() {
                let message = format!("{name} sends the workload's traffic through another host");
                self.find(Level::Warning, "env-proxy", line, message);
            }
            if looks_secret(name, &set.value) {
                let message = format!(
                    "{name} looks like a secret: the environment is copied into the attestation token"
                );
                self.find(Level::Error, "env-secret", line, message);
            }
        }
    }

    fn process(&mut self, image: &Image) {
        match image.entrypoint.as_ref() {
            None if image.base.is_some() => {
                let message = "no ENTRYPOINT here: that of the base image is run, if it has one";
                self.find(Level::Warning, "no-entrypoint", None, message);
            }
            None if image.cmd.is_some() => {
                let message = "no ENTRYPOINT: the launcher runs CMD, and refuses a launch with tee-cmd";
                self.find(Level::Note, "no-entrypoint", None, message);
            }
            None => {
                let message = "no ENTRYPOINT and no CMD: the launcher refuses an image that runs nothing";
                self.find(Level::Error, "no-entrypoint", None, message);
            }
            Some(Set { value: Command::Shell(_), line }) => {
                let message =
                    "ENTRYPOINT as a line needs a shell, which then takes SIGTERM: write it as a list";
                self.find(Level::Warning, "shell-entrypoint", *line, message);
            }
            Some(_) => {}
        }
        if let Some(Set { value: Command::Shell(_), line }) = &image.cmd {
            self.find(Level::Warning, "shell-cmd", *line, "CMD as a line needs a shell: write it as a list");
        }
        let line = image.user.as_ref().and_then(|user| user.line);
        match (image.runs_as_root(), self.launcher) {
            (false, Launcher::Preview) => {
                let message = "on the preview's image only root can read the attestation token: use USER 0";
                self.find(Level::Error, "user-cannot-read-token", line, message);
            }
            (true, Launcher::Current) => {
                let message = "the workload runs as root, which today's images do not need: set USER";
                self.find(Level::Warning, "user-root", line, message);
            }
            _ => {}
        }
        let name = image.user_name();
        if name.parse::<i64>().is_err() && !image.runs_as_root() {
            let message = format!(
                "the number of the user {name} is in the image's /etc/passwd, and may be 0: set a number"
            );
            self.find(Level::Warning, "user-by-name", line, message);
        }
        if image.healthcheck {
            self.find(Level::Note, "healthcheck", None, "the launcher ignores HEALTHCHECK");
        }
    }

    fn base(&mut self, image: &Image) {
        let Some(base) = &image.base else { return };
        if !base.value.contains("@sha256:") {
            let message =
                format!("{} is not named by its digest: the next build may start from another", base.value);
            self.find(Level::Note, "base-not-pinned", base.line, message);
        }
        let message = format!(
            "what {} sets, exposes and triggers (ONBUILD) cannot be seen here: lint the image that was built",
            base.value
        );
        self.find(Level::Note, "base-not-seen", base.line, message);
    }
}

fn number(port: &str) -> &str {
    port.split('/').next().unwrap_or(port)
}

/// Whether a variable holds a secret, by its name. Values that are short, paths, resource names or references are none.
fn looks_secret(name: &str, value: &str) -> bool {
    let words = ["TOKEN", "SECRET", "PASSWORD", "PASSPHRASE", "APIKEY", "CREDENTIALS", "KEY"];
    let is_named_so = name.to_ascii_uppercase().split('_').any(|word| words.contains(&word));
    is_named_so && value.len() >= 8 && !value.contains('/') && !value.starts_with('$')
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

impl fmt::Display for LintReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "launch policy, as the {} launcher reads it", self.launcher.as_str())?;
        for explained in &self.labels {
            let meaning = match self.launcher {
                Launcher::Preview => &explained.preview,
                Launcher::Current => &explained.current,
            };
            let name = explained.label.strip_prefix(PREFIX).unwrap_or(&explained.label);
            match &explained.value {
                Some(value) => writeln!(f, "  {name} = {value:?}: {meaning}")?,
                None => writeln!(f, "  {name}, not set: {meaning}")?,
            }
        }
        let ports = if self.ports.is_empty() { "none".to_owned() } else { self.ports.join(", ") };
        writeln!(f, "ports that the launcher opens: {ports}")?;
        for finding in &self.findings {
            let place = finding.line.map(|line| format!("line {line}: ")).unwrap_or_default();
            writeln!(f, "{:<8}{place}{} [{}]", finding.level, finding.message, finding.code)?;
        }
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let (errors, warnings, notes) = (count(Level::Error), count(Level::Warning), count(Level::Note));
        writeln!(f, "errors: {errors}, warnings: {warnings}, notes: {notes}")
    }
}

#[cfg(test)]
mod tests;
