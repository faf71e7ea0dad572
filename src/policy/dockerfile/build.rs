//! What a build knows while it goes from stage to stage.

use std::collections::BTreeMap;

use super::expand::{Expanded, Lex, Value};
use super::{Builder, Problem, unknown};
use crate::policy::image::Image;

pub(super) type Variables = BTreeMap<String, Value>;

/// A stage as it was built.
#[derive(Clone, Default)]
pub(super) struct Built {
    pub(super) image: Image,
    /// Whether names that are not set here may be set by an image that cannot be seen.
    pub(super) is_open: bool,
    /// BuildKit keeps ENV and ARG in one place, and hands both on to stages that are based on this one.
    pub(super) variables: Variables,
    pub(super) shell: Vec<String>,
}

/// A build: the builder, and what all stages share.
pub(super) struct Build<'a> {
    pub(super) builder: Builder,
    pub(super) lex: Lex,
    pub(super) escape: char,
    /// Given from outside.
    pub(super) given: &'a BTreeMap<String, String>,
    pub(super) global: Variables,
}

/// What a variable is set to.
pub(super) fn value_of(expanded: Expanded) -> Value {
    if expanded.unknown.is_some() { Value::Unknown } else { Value::Known(expanded.text) }
}

/// The text, if every variable in it is known.
pub(super) fn known(expanded: Expanded) -> Result<String, Problem> {
    match expanded.unknown {
        None => Ok(expanded.text),
        Some(name) => unknown(format!(
            "${name} is set by the base image or by the machine that builds: lint the image that was built, or give \
             --build-arg with an ARG"
        )),
    }
}
