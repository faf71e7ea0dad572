//! The launch-policy labels: which there are, what the launcher makes of a value, and what that means.
//!
//! A value that the launcher cannot read refuses the launch; a label that it does not know, it ignores.

use serde::Serialize;

/// What every label of the launch policy starts with.
pub(super) const PREFIX: &str = "tee.launch_policy.";

/// A generation of the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Launcher {
    /// That of the GPU preview image of the codelab, of October 2024.
    Preview,
    /// That of today's Confidential Space images.
    Current,
}

/// A label that some launcher knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    AllowCmdOverride,
    AllowEnvOverride,
    AllowMountDestinations,
    LogRedirect,
    MonitoringMemoryAllow,
    HardenedMonitoring,
    DebugMonitoring,
    AllowCapabilities,
    AllowCgroups,
}

/// What a launcher makes of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The operator may, or may not.
    Flag(bool),
    /// What the operator may name, in the order of the label.
    Names(Vec<String>),
    /// When the operator may.
    When(When),
    /// What of the machine may be watched.
    Watched(Watched),
}

/// When an operator's wish is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    DebugOnly,
    Never,
}

/// What of the machine may be watched from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    Nothing,
    Memory,
    Everything,
}

impl Launcher {
    /// Its name in flags and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preview => "preview",
            Self::Current => "current",
        }
    }
}

impl Label {
    pub(super) const ALL: [Self; 9] = [
        Self::AllowCmdOverride,
        Self::AllowEnvOverride,
        Self::AllowMountDestinations,
        Self::LogRedirect,
        Self::MonitoringMemoryAllow,
        Self::HardenedMonitoring,
        Self::DebugMonitoring,
        Self::AllowCapabilities,
        Self::AllowCgroups,
    ];

    /// The label without [`PREFIX`].
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AllowCmdOverride => "allow_cmd_override",
            Self::AllowEnvOverride => "allow_env_override",
            Self::AllowMountDestinations => "allow_mount_destinations",
            Self::LogRedirect => "log_redirect",
            Self::MonitoringMemoryAllow => "monitoring_memory_allow",
            Self::HardenedMonitoring => "hardened_monitoring",
            Self::DebugMonitoring => "debug_monitoring",
            Self::AllowCapabilities => "allow_capabilities",
            Self::AllowCgroups => "allow_cgroups",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.name() == name)
    }

    /// Whether that launcher looks at it.
    pub(super) fn known_to(self, launcher: Launcher) -> bool {
        let is_new = matches!(
            self,
            Self::HardenedMonitoring | Self::DebugMonitoring | Self::AllowCapabilities | Self::AllowCgroups
        );
        launcher == Launcher::Current || !is_new
    }

    /// What holds where the label is not set.
    pub(super) fn default(self) -> Meaning {
        match self {
            Self::AllowCmdOverride | Self::AllowCapabilities | Self::AllowCgroups => Meaning::Flag(false),
            Self::AllowEnvOverride | Self::AllowMountDestinations => Meaning::Names(Vec::new()),
            Self::LogRedirect | Self::MonitoringMemoryAllow => Meaning::When(When::DebugOnly),
            Self::HardenedMonitoring => Meaning::Watched(Watched::Nothing),
            Self::DebugMonitoring => Meaning::Watched(Watched::Memory),
        }
    }

    /// What a launcher that knows the label makes of `value`; `None` refuses the launch.
    pub(super) fn read(self, value: &str) -> Option<Meaning> {
        Some(match self {
            Self::AllowCmdOverride | Self::AllowCapabilities | Self::AllowCgroups => {
                Meaning::Flag(flag(value)?)
            }
            // Split and not trimmed: a space becomes part of the name.
            Self::AllowEnvOverride => Meaning::Names(names(value, ',')),
            Self::AllowMountDestinations => {
                Meaning::Names(names(value, ':').iter().map(|path| clean(path)).collect())
            }
            Self::LogRedirect | Self::MonitoringMemoryAllow => {
                Meaning::When(match value.trim().to_ascii_lowercase().as_str() {
                    "always" => When::Always,
                    "debugonly" => When::DebugOnly,
                    "never" => When::Never,
                    _ => return None,
                })
            }
            Self::HardenedMonitoring | Self::DebugMonitoring => {
                Meaning::Watched(match value.to_ascii_lowercase().as_str() {
                    "none" => Watched::Nothing,
                    "memoryonly" => Watched::Memory,
                    "all" => Watched::Everything,
                    _ => return None,
                })
            }
        })
    }

    /// What a launcher reads there, in words.
    pub(super) fn takes(self) -> &'static str {
        match self.default() {
            Meaning::Flag(_) => "true or false",
            Meaning::Names(_) => "a list",
            Meaning::When(_) => "always, debugonly or never",
            Meaning::Watched(_) => "none, memoryonly or all",
        }
    }

    /// What follows from it, in words.
    pub(super) fn explain(self, meaning: &Meaning) -> String {
        let list = |names: &[String]| names.join(", ");
        match (self, meaning) {
            (Self::AllowCmdOverride, Meaning::Flag(true)) => "the operator may replace the arguments (tee-cmd)".into(),
            (Self::AllowCmdOverride, _) => "a launch with tee-cmd is refused".into(),
            (Self::AllowEnvOverride, Meaning::Names(names)) if !names.is_empty() => {
                format!("the operator may set (tee-env-NAME): {}", list(names))
            }
            (Self::AllowEnvOverride, _) => "a launch with any tee-env-NAME is refused".into(),
            (Self::AllowMountDestinations, Meaning::Names(paths)) if !paths.is_empty() => {
                format!("the operator may mount memory (tee-mount) at or below: {}", list(paths))
            }
            (Self::AllowMountDestinations, _) => "a launch with tee-mount is refused".into(),
            (Self::LogRedirect, Meaning::When(When::Always)) => {
                "the operator may read standard output and error (tee-container-log-redirect), in production too".into()
            }
            (Self::LogRedirect, Meaning::When(When::Never)) => {
                "a launch with tee-container-log-redirect is refused, on debug images too".into()
            }
            (Self::LogRedirect, _) => "on production images a launch with tee-container-log-redirect is refused".into(),
            (Self::MonitoringMemoryAllow, Meaning::When(When::Always)) => {
                "the operator may watch the memory that is used, in production too".into()
            }
            (Self::MonitoringMemoryAllow, Meaning::When(When::Never)) => "memory usage is not monitored".into(),
            (Self::MonitoringMemoryAllow, _) => "the operator may watch the memory that is used on debug images".into(),
            (Self::HardenedMonitoring | Self::DebugMonitoring, Meaning::Watched(watched)) => {
                let images = if self == Self::DebugMonitoring { "debug images" } else { "production images" };
                match watched {
                    Watched::Nothing => format!("{images} are not monitored from outside"),
                    Watched::Memory => format!("the operator may watch the memory that is used on {images}"),
                    Watched::Everything => format!("the operator may watch everything there is to watch on {images}"),
                }
            }
            (Self::AllowCapabilities, Meaning::Flag(true)) => "the operator may add capabilities".into(),
            (Self::AllowCapabilities, _) => "a launch with tee-added-capabilities is refused".into(),
            (Self::AllowCgroups, Meaning::Flag(true)) => "the operator may give the container a cgroup name space".into(),
            (Self::AllowCgroups, _) => "a launch with tee-cgroup-ns is refused".into(),
            _ => String::new(),
        }
    }
}

/// As Go's `strconv.ParseBool` has it.
fn flag(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn names(value: &str, separator: char) -> Vec<String> {
    value.split(separator).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A path without `.`, `..` and doubled slashes, by its text alone.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let is_absolute = path.starts_with('/');
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if is_absolute || parts.last().is_some_and(|&last| last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.as_str()) {
        (true, _) => format!("/{joined}"),
        (false, "") => ".".to_owned(),
        (false, _) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_the_launcher_reads_them() {
        let names =
            |names: &[&str]| Some(Meaning::Names(names.iter().map(|&name| name.to_owned()).collect()));
        for (label, value, meaning) in [
            (Label::AllowCmdOverride, "T", Some(Meaning::Flag(true))),
            (Label::AllowCmdOverride, "yes", None),
            (Label::AllowCmdOverride, "", None),
            (Label::AllowEnvOverride, "", names(&[])),
            (Label::AllowEnvOverride, "A,,B, C", names(&["A", "B", " C"])),
            (Label::AllowMountDestinations, "/a/:/b/../c::d/./e", names(&["/a", "/c", "d/e"])),
            (Label::LogRedirect, " Always ", Some(Meaning::When(When::Always))),
            (Label::LogRedirect, "true", None),
            (Label::HardenedMonitoring, "MemoryOnly", Some(Meaning::Watched(Watched::Memory))),
            (Label::HardenedMonitoring, " none", None),
            (Label::MonitoringMemoryAllow, "never", Some(Meaning::When(When::Never))),
        ] {
            assert_eq!(label.read(value), meaning, "{}={value:?}", label.name());
        }
    }

    #[test]
    fn every_label_explains_every_meaning_and_takes_its_default() {
        for label in Label::ALL {
            assert!(!label.explain(&label.default()).is_empty(), "{}", label.name());
            assert_eq!(Label::of(label.name()), Some(label));
            let values =
                ["true", "false", "always", "never", "debugonly", "none", "memoryonly", "all", "/a", ""];
            for meaning in values.iter().filter_map(|value| label.read(value)) {
                assert!(!label.explain(&meaning).is_empty(), "{} {meaning:?}", label.name());
            }
        }
        assert_eq!(Label::of("allow_everything"), None);
    }

    #[test]
    fn the_preview_knows_five_of_them() {
        let known = Label::ALL.into_iter().filter(|label| label.known_to(Launcher::Preview)).count();
        assert_eq!((known, Label::ALL.iter().all(|label| label.known_to(Launcher::Current))), (5, true));
    }

    #[test]
    fn paths_are_cleaned_by_their_text() {
        for (path, cleaned) in
            [("/", "/"), ("/..", "/"), ("//a//b/", "/a/b"), ("../a", "../a"), ("./", "."), ("a/../..", "..")]
        {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }
}
