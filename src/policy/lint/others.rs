//! A Dockerfile of which builders make different images: what is said of the other builder's.

use super::super::image::{Image, ImageError, Other};
use super::{Finding, Level};

/// What `other` adds to the findings of `image`: that it differs, and its own findings.
pub(super) fn findings(image: &Image, other: &Other, of: impl Fn(&Image) -> Vec<Finding>) -> Vec<Finding> {
    let builder = other.builder;
    let find = |level, code: &str, line, message| Finding { level, code: code.to_owned(), line, message };
    match &other.reading {
        Err(ImageError::Unknown { line, problem }) => {
            let message = format!("what {builder} makes of this cannot be determined: {problem}");
            vec![find(Level::Warning, "builders-differ", Some(*line), message)]
        }
        Err(ImageError::Dockerfile { line, problem }) => {
            vec![find(
                Level::Note,
                "builder-refuses",
                Some(*line),
                format!("{builder} refuses this: {problem}"),
            )]
        }
        Err(error) => vec![find(Level::Warning, "builders-differ", None, format!("{builder}: {error}"))],
        Ok(reading) => {
            let what = image.differing(reading).join(", ");
            let message = format!(
                "{builder} makes another image of this than BuildKit ({what}): the findings of both are listed"
            );
            let known = of(image);
            let own = of(reading).into_iter().filter(|finding| !known.contains(finding)).map(|finding| {
                Finding { message: format!("built with {builder}: {}", finding.message), ..finding }
            });
            std::iter::once(find(Level::Warning, "builders-differ", None, message)).chain(own).collect()
        }
    }
}
