//! A Dockerfile, as far as it decides an image's configuration, as BuildKit and buildah read it.
//!
//! Nothing is run and no base image is read, so what a base image sets stays unknown. What a builder refuses is
//! refused here; `tests/vectors/dockerfiles` holds this against what both builders made.

mod blank;
mod build;
mod expand;
mod lines;
mod pattern;
mod ports;
mod reference;
mod stage;
mod stages;
mod steps;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;

use super::image::{Image, ImageError, Other};

/// The builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Builder {
    BuildKit,
    /// Its OCI format has no place for ONBUILD.
    Buildah {
        onbuild: bool,
    },
}

/// Why a Dockerfile is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    /// The builder refuses it.
    Refused(String),
    /// What the builder makes of it cannot be determined.
    Unknown(String),
}

fn problem<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Refused(text.into()))
}

fn unknown<T>(text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Unknown(text.into()))
}

/// The frontends that read a Dockerfile as this module does.
const FRONTENDS: &[&str] = &["docker/dockerfile", "docker/dockerfile-upstream"];

/// Reads the last stage of a Dockerfile as BuildKit does, with what buildah makes of it where that is something else.
pub(super) fn read(text: &str, arguments: &BTreeMap<String, String>) -> Result<Image, ImageError> {
    let mut image = read_as(text, Builder::BuildKit, arguments)?;
    let mut others = Vec::new();
    for (builder, name) in [
        (Builder::Buildah { onbuild: true }, "buildah"),
        (Builder::Buildah { onbuild: false }, "buildah in OCI format"),
    ] {
        let reading = read_as(text, builder, arguments);
        let is_same = match &reading {
            Ok(other) => other.is_configured_like(&image),
            Err(_) => false,
        };
        let is_known = others.iter().any(|other: &Other| match (&reading, &other.reading) {
            (Ok(one), Ok(other)) => one.is_configured_like(other),
            (Err(_), Err(_)) => true,
            _ => false,
        });
        if !is_same && !is_known {
            others.push(Other { builder: name, reading: reading.map(Box::new) });
        }
    }
    image.others = others;
    Ok(image)
}

fn read_as(text: &str, builder: Builder, arguments: &BTreeMap<String, String>) -> Result<Image, ImageError> {
    let at = |(line, problem)| match problem {
        Problem::Refused(problem) => ImageError::Dockerfile { line, problem },
        Problem::Unknown(problem) => ImageError::Unknown { line, problem },
    };
    let parsed = lines::parse(text, builder).map_err(at)?;
    if let Some(syntax) = parsed.syntax.as_deref().filter(|_| !builder.is_buildah())
        && !is_frontend(syntax)
    {
        return Err(at((
            1,
            Problem::Unknown(format!("the frontend {syntax} of # syntax= reads it in its own way")),
        )));
    }
    build::Build::run(&parsed, builder, arguments).map_err(at)
}

fn is_frontend(image: &str) -> bool {
    let image = image.strip_prefix("docker.io/").unwrap_or(image);
    FRONTENDS.contains(&image.split([':', '@']).next().unwrap_or_default())
}

impl Builder {
    fn is_buildah(self) -> bool {
        self != Self::BuildKit
    }
}
