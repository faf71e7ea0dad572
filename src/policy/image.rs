//! What the launcher reads of an image: labels, environment, ports, user, entry point.
//!
//! From an OCI image configuration, the output of `docker inspect`, or a Dockerfile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dockerfile;

/// An image, as its configuration or its Dockerfile describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// What it was read from.
    pub kind: Kind,
    /// Its labels.
    pub labels: BTreeMap<String, Set<String>>,
    /// Its environment.
    pub env: BTreeMap<String, Set<String>>,
    /// The ports that the launcher opens, as they are written: `8080`, `8080/tcp`.
    pub ports: Vec<Set<String>>,
    /// Who the workload runs as; root if it is not said.
    pub user: Option<Set<String>>,
    /// What is run.
    pub entrypoint: Option<Set<Command>>,
    /// Its arguments.
    pub cmd: Option<Set<Command>>,
    /// Whether it has a health check, which the launcher ignores.
    pub healthcheck: bool,
    /// The image that a Dockerfile starts from, whose own settings cannot be seen.
    pub base: Option<Set<String>>,
}

/// What an image was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Its configuration: everything is in it, whoever set it.
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
    /// A line: run by a shell.
    Shell(String),
}

/// Why an image cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// JSON, but no image.
    #[error(
        "no image configuration: give the JSON of `docker inspect IMAGE`, or of an OCI image configuration"
    )]
    NotAnImage,
    /// One at a time.
    #[error("these are {0} images: give one")]
    Several(usize),
    /// A Dockerfile that cannot be read.
    #[error("line {line} of the Dockerfile: {problem}")]
    Dockerfile {
        /// Where.
        line: usize,
        /// What is wrong.
        problem: &'static str,
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
    /// Reads an image configuration or a Dockerfile; `arguments` are the build's.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn read(text: &str, arguments: &BTreeMap<String, String>) -> Result<Self, ImageError> {
        if !text.trim_start().starts_with(['{', '[']) {
            return dockerfile::read(text, arguments);
        }
        let value: Value = serde_json::from_str(text).map_err(|_| ImageError::NotAnImage)?;
        match value {
            Value::Array(images) => match images.as_slice() {
                [image] => Self::from_json(image),
                several => Err(ImageError::Several(several.len())),
            },
            image => Self::from_json(&image),
        }
    }

    fn from_json(image: &Value) -> Result<Self, ImageError> {
        // OCI: `config`; docker inspect: `Config`. An image without any setting has an empty one.
        let configuration =
            image.get("config").or_else(|| image.get("Config")).ok_or(ImageError::NotAnImage)?;
        let found: Configuration =
            serde_json::from_value(configuration.clone()).map_err(|_| ImageError::NotAnImage)?;
        let pair = |variable: String| {
            let (name, value) = variable.split_once('=').unwrap_or((&variable, ""));
            (name.to_owned(), Set::somewhere(value.to_owned()))
        };
        let words = |words: Option<Vec<String>>| {
            words.filter(|words| !words.is_empty()).map(|words| Set::somewhere(Command::Words(words)))
        };
        let labels = found.labels.unwrap_or_default().into_iter();
        Ok(Self {
            kind: Kind::Configuration,
            labels: labels.map(|(name, value)| (name, Set::somewhere(value))).collect(),
            env: found.env.unwrap_or_default().into_iter().map(pair).collect(),
            ports: found.exposed_ports.unwrap_or_default().into_keys().map(Set::somewhere).collect(),
            user: found.user.filter(|user| !user.is_empty()).map(Set::somewhere),
            entrypoint: words(found.entrypoint),
            cmd: words(found.cmd),
            healthcheck: found.healthcheck.is_some_and(|check| !check.is_null()),
            base: None,
        })
    }

    /// Whether the workload runs as root.
    pub fn runs_as_root(&self) -> bool {
        let user = self.user.as_ref().map_or("", |user| user.value.as_str());
        matches!(user.split(':').next().unwrap_or_default(), "" | "0" | "root")
    }
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
        for (user, root) in
            [("0", true), ("root:root", true), ("0:0", true), ("1000", false), ("nobody", false)]
        {
            let image = read(&format!(r#"{{"config": {{"User": "{user}"}}}}"#)).unwrap();
            assert_eq!(image.runs_as_root(), root, "{user}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(read(r#"{"schemaVersion": 2}"#), Err(ImageError::NotAnImage));
        assert_eq!(read(r#"{"config": {"Env": "x"}}"#), Err(ImageError::NotAnImage));
        assert_eq!(read("{"), Err(ImageError::NotAnImage));
        assert_eq!(read("[]"), Err(ImageError::Several(0)));
        assert_eq!(read(r#"[{"Config": {}}, {"Config": {}}]"#), Err(ImageError::Several(2)));
    }
}
