//! What the launcher reads of an image: labels, environment, ports, user, entry point.
//!
//! From an OCI image configuration, the output of `docker inspect`, or a Dockerfile.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::members::Unique;

mod members;

/// An image, as its configuration or its Dockerfile describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// What it was read from.
    pub kind: Kind,
    /// Its labels.
    pub labels: BTreeMap<String, Set<String>>,
    /// Its environment.
    pub env: BTreeMap<String, Set<String>>,
    /// The ports that the launcher opens, as they stand in the configuration: `8080/tcp`.
    pub ports: Vec<Set<String>>,
    /// The user that the workload runs as; root if none is set.
    pub user: Option<Set<String>>,
    /// What is run.
    pub entrypoint: Option<Set<Command>>,
    /// Its arguments.
    pub cmd: Option<Set<Command>>,
    /// Whether it has a health check, which the launcher ignores.
    pub healthcheck: bool,
    /// The image that a Dockerfile starts from, whose own settings cannot be seen.
    pub base: Option<Set<String>>,
    /// What other builders make of a Dockerfile than BuildKit, if it is something else.
    pub others: Vec<Other>,
}

/// Another builder's reading of a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Which builder.
    pub builder: &'static str,
    /// Its image, or why it makes none.
    pub reading: Result<Box<Image>, ImageError>,
}

/// What an image was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its configuration, which has all settings, those of the base image included.
    #[default]
    Configuration,
    /// A Dockerfile: what the base image sets is not in it.
    Dockerfile,
}

/// A setting, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set<T> {
    /// The setting.
    pub value: T,
    /// The line of the Dockerfile.
    pub line: Option<usize>,
}

/// An entry point or its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Words: run as they are.
    Words(Vec<String>),
    /// A line: a shell and its arguments, of which the last is the line.
    Shell(Vec<String>),
}

impl Command {
    /// What is run, as it stands in the configuration.
    pub fn words(&self) -> &[String] {
        match self {
            Self::Words(words) | Self::Shell(words) => words,
        }
    }
}

/// Why an image cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// JSON, but no image.
    #[error(
        "no image configuration: give the JSON of `docker inspect IMAGE` or of `skopeo inspect --config \
         docker://IMAGE`"
    )]
    NotAnImage,
    /// It names a configuration by its digest and does not have it.
    #[error(
        "an image manifest, which has no labels, ports or user: give `skopeo inspect --config docker://IMAGE`"
    )]
    Manifest,
    /// It names images for several platforms.
    #[error(
        "an image index, which has no labels, ports or user: give `skopeo inspect --config --override-os linux \
         --override-arch amd64 docker://IMAGE`"
    )]
    Index,
    /// What was started, with what the start changed.
    #[error("a container, not an image: give `docker inspect` the image's name")]
    Container,
    /// A member that readers read differently.
    #[error(
        "the member {0} of the image configuration is there twice or in another case: launchers read it differently"
    )]
    Ambiguous(String),
    /// A variable with two values.
    #[error("the variable {0} is twice in the image's environment: programs read it differently")]
    VariableTwice(String),
    /// One at a time.
    #[error("these are {0} images: give one")]
    Several(usize),
    /// A Dockerfile that cannot be read.
    #[error("line {line} of the Dockerfile: {problem}")]
    Dockerfile {
        /// Where.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// A Dockerfile of which it cannot be determined what a builder makes.
    #[error("line {line} of the Dockerfile: cannot be determined: {problem}")]
    Unknown {
        /// Where.
        line: usize,
        /// Why.
        problem: String,
    },
}

/// As Docker and the OCI spell it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Configuration {
    user: Option<String>,
    exposed_ports: Option<BTreeMap<String, Value>>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    healthcheck: Option<Value>,
}

impl<T> Set<T> {
    /// A setting that stands in no Dockerfile.
    pub fn somewhere(value: T) -> Self {
        Self { value, line: None }
    }

    /// A setting of a Dockerfile.
    pub fn at(line: usize, value: T) -> Self {
        Self { value, line: Some(line) }
    }
}

impl Image {
    /// Reads an image configuration: OCI's, or the output of `docker inspect`.
    pub(super) fn from_configuration(text: &str) -> Result<Self, ImageError> {
        let Unique(value) = serde_json::from_str(text)
            .map_err(|error| members::twice(&error).map_or(ImageError::NotAnImage, ImageError::Ambiguous))?;
        match value {
            Value::Array(images) => match images.as_slice() {
                [image] => Self::from_json(image),
                several => Err(ImageError::Several(several.len())),
            },
            image => Self::from_json(&image),
        }
    }

    fn from_json(image: &Value) -> Result<Self, ImageError> {
        not_something_else(image)?;
        // OCI: `config`; docker inspect: `Config`. An image without any setting has an empty one.
        let (_, configuration) = member(image, &["config", "Config"])?.ok_or(ImageError::NotAnImage)?;
        for name in MEMBERS {
            member(configuration, &[name])?;
        }
        let found: Configuration =
            serde_json::from_value(configuration.clone()).map_err(|_| ImageError::NotAnImage)?;
        let mut env = BTreeMap::new();
        for variable in found.env.unwrap_or_default() {
            let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
            if env.insert(name.to_owned(), Set::somewhere(value.to_owned())).is_some() {
                return Err(ImageError::VariableTwice(name.to_owned()));
            }
        }
        let words = |words: Option<Vec<String>>| {
            words.filter(|words| !words.is_empty()).map(|words| Set::somewhere(Command::of(words)))
        };
        let labels = found.labels.unwrap_or_default().into_iter();
        Ok(Self {
            kind: Kind::Configuration,
            labels: labels.map(|(name, value)| (name, Set::somewhere(value))).collect(),
            env,
            ports: found.exposed_ports.unwrap_or_default().into_keys().map(Set::somewhere).collect(),
            user: found.user.filter(|user| !user.is_empty()).map(Set::somewhere),
            entrypoint: words(found.entrypoint),
            cmd: words(found.cmd),
            healthcheck: found.healthcheck.is_some_and(|check| !check.is_null()),
            base: None,
            others: Vec::new(),
        })
    }

    /// Whether the launcher reads the same of `other`.
    pub fn is_configured_like(&self, other: &Self) -> bool {
        self.differing(other).is_empty()
    }

    /// In what the launcher reads something else of `other`.
    pub fn differing(&self, other: &Self) -> Vec<&'static str> {
        fn values(settings: &BTreeMap<String, Set<String>>) -> Vec<(&str, &str)> {
            settings.iter().map(|(name, set)| (name.as_str(), set.value.as_str())).collect()
        }
        fn words(command: Option<&Set<Command>>) -> &[String] {
            command.map_or(&[], |set| set.value.words())
        }
        let ports = |image: &Self| image.ports.iter().map(|set| set.value.clone()).collect::<BTreeSet<_>>();
        let user = |image: &Self| image.user.as_ref().map_or(String::new(), |set| set.value.clone());
        let found = [
            ("labels", values(&self.labels) != values(&other.labels)),
            ("environment", values(&self.env) != values(&other.env)),
            ("exposed ports", ports(self) != ports(other)),
            ("user", user(self) != user(other)),
            ("entry point", words(self.entrypoint.as_ref()) != words(other.entrypoint.as_ref())),
            ("arguments", words(self.cmd.as_ref()) != words(other.cmd.as_ref())),
            ("base image", self.base.as_ref().map(|b| &b.value) != other.base.as_ref().map(|b| &b.value)),
        ];
        found.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// Whether the workload runs as root.
    pub fn runs_as_root(&self) -> bool {
        let user = self.user_name();
        // containerd reads a number as Go does, with a sign and leading zeros.
        user.is_empty() || user == "root" || user.parse::<i64>() == Ok(0)
    }

    /// The user without the group; empty if none is set.
    pub fn user_name(&self) -> &str {
        let user = self.user.as_ref().map_or("", |user| user.value.as_str());
        user.split(':').next().unwrap_or_default()
    }
}

impl Command {
    fn of(words: Vec<String>) -> Self {
        match words.as_slice() {
            [shell, flag, _] if flag == "-c" && shell.ends_with("sh") => Self::Shell(words),
            _ => Self::Words(words),
        }
    }
}

/// The part of a configuration that the launcher reads.
const MEMBERS: [&str; 7] = ["User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Labels", "Healthcheck"];

/// The member of one of these names. Go reads names without their case: another spelling would be read there.
fn member<'a>(object: &'a Value, names: &[&str]) -> Result<Option<(&'a str, &'a Value)>, ImageError> {
    let Some(members) = object.as_object() else { return Ok(None) };
    let is_named = |name: &&String| names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name));
    let mut found = members.keys().filter(is_named);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some(name), None) if names.contains(&name.as_str()) => {
            Ok(members.get_key_value(name).map(|(name, value)| (name.as_str(), value)))
        }
        (Some(name), _) => Err(ImageError::Ambiguous(name.clone())),
    }
}

/// Refuses JSON that has a `config` and is not an image all the same.
fn not_something_else(image: &Value) -> Result<(), ImageError> {
    let has = |name: &str| image.get(name).is_some();
    let media = image.get("mediaType").and_then(Value::as_str).unwrap_or_default();
    if has("manifests") || media.contains("index") || media.contains("manifest.list") {
        return Err(ImageError::Index);
    }
    let names_config = image.get("config").is_some_and(|config| config.get("digest").is_some());
    if has("schemaVersion") || has("layers") || names_config || media.contains("manifest") {
        return Err(ImageError::Manifest);
    }
    if has("HostConfig") || has("State") {
        return Err(ImageError::Container);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Image, ImageError> {
        Image::read(text, &BTreeMap::new())
    }

    const CONFIGURATION: &str = r#"{"User": "65532:65532", "ExposedPorts": {"8080/tcp": {}, "8888/tcp": {}},
        "Env": ["PATH=/bin", "EMPTY=", "EQUALS=a=b"], "Entrypoint": ["/server"], "Cmd": null,
        "Labels": {"tee.launch_policy.log_redirect": "never"}, "Healthcheck": {"Test": ["NONE"]}}"#;

    #[test]
    fn oci_and_docker_say_the_same() {
        let oci = read(&format!(r#"{{"architecture": "amd64", "os": "linux", "config": {CONFIGURATION}}}"#))
            .unwrap();
        let docker = read(&format!(r#"[{{"Id": "sha256:0", "Config": {CONFIGURATION}}}]"#)).unwrap();
        assert_eq!(oci, docker);
        assert_eq!(
            oci.ports.iter().map(|port| port.value.as_str()).collect::<Vec<_>>(),
            ["8080/tcp", "8888/tcp"]
        );
        assert_eq!(oci.env["EQUALS"].value, "a=b");
        assert_eq!(oci.entrypoint.as_ref().unwrap().value, Command::Words(vec!["/server".into()]));
        assert!(oci.healthcheck && oci.cmd.is_none() && !oci.runs_as_root());
    }

    #[test]
    fn an_image_that_says_nothing_runs_as_root() {
        let empty = read(r#"{"config": {}}"#).unwrap();
        assert!(empty.runs_as_root() && empty.entrypoint.is_none());
        for (user, root) in [
            ("0", true),
            ("root:root", true),
            ("0:0", true),
            ("00", true),
            ("+0", true),
            ("1000", false),
            ("nobody", false),
        ] {
            let image = read(&format!(r#"{{"config": {{"User": "{user}"}}}}"#)).unwrap();
            assert_eq!(image.runs_as_root(), root, "{user}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(read(r#"{"Labels": {}, "User": "1"}"#), Err(ImageError::NotAnImage), "a bare .Config");
        let buildah =
            r#"{"Type": "buildah 0.0.1", "Config": "{}", "Docker": {"config": {}}, "OCIv1": {"config": {}}}"#;
        assert_eq!(read(buildah), Err(ImageError::NotAnImage));
        assert_eq!(read(r#"{"config": {"Env": "x"}}"#), Err(ImageError::NotAnImage));
        assert_eq!(read("{"), Err(ImageError::NotAnImage));
        assert_eq!(read("[]"), Err(ImageError::Several(0)));
        assert_eq!(read(r#"[{"Config": {}}, {"Config": {}}]"#), Err(ImageError::Several(2)));
    }

    /// What `skopeo inspect --raw`, `crane manifest` and `docker inspect CONTAINER` give has a `config` too.
    #[test]
    fn what_only_names_a_configuration_is_no_image() {
        let config =
            r#"{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:00", "size": 7}"#;
        let manifest = format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": []}}"#);
        assert_eq!(read(&manifest), Err(ImageError::Manifest));
        assert_eq!(read(&format!(r#"{{"config": {config}}}"#)), Err(ImageError::Manifest));
        assert_eq!(read(r#"{"schemaVersion": 1, "fsLayers": []}"#), Err(ImageError::Manifest));
        let index = r#"{"schemaVersion": 2, "manifests": [{"platform": {"os": "linux"}}]}"#;
        assert_eq!(read(index), Err(ImageError::Index));
        assert_eq!(read(r#"[{"Config": {}, "HostConfig": {}, "State": {}}]"#), Err(ImageError::Container));
        assert!(ImageError::Manifest.to_string().contains("skopeo inspect --config"));
    }

    /// Go, in which the launcher is written, reads members without their case and merges objects.
    #[test]
    fn what_go_would_read_otherwise_is_refused() {
        let ambiguous = |text: &str| match read(text) {
            Err(ImageError::Ambiguous(name)) => name,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(
            ambiguous(r#"{"config": {"labels": {"tee.launch_policy.log_redirect": "always"}}}"#),
            "labels"
        );
        assert_eq!(ambiguous(r#"{"config": {"User": "1", "USER": "0"}}"#), "USER");
        assert_eq!(ambiguous(r#"{"config": {"User": "1", "User": "0"}}"#), "User");
        assert_eq!(ambiguous(r#"{"config": {}, "Config": {}}"#), "Config");
        assert_eq!(ambiguous(r#"{"CONFIG": {}}"#), "CONFIG");
        assert_eq!(
            read(r#"{"config": {"Env": ["A=1", "A=2"]}}"#),
            Err(ImageError::VariableTwice("A".into()))
        );
    }
}
