//! The files of a model that is named on a command line, or of the small one that needs no files.

use std::path::Path;

use super::{ModelError, ModelFiles};

/// The shape of the embedded model.
#[cfg(any(test, not(feature = "sandbox")))]
const SMALL_SHAPE: &[u8] = include_bytes!("../../models/tiny/config.json");

impl ModelFiles {
    /// The model at `path` and its name; `tiny` is the embedded model, in builds that have it.
    pub(crate) fn named(path: &Path) -> (String, Self) {
        #[cfg(feature = "sandbox")]
        if path.as_os_str() == "tiny" {
            return (super::TINY_MODEL_NAME.to_owned(), Self::tiny());
        }
        (Self::name_of(path), Self::at(path))
    }

    /// The embedded model and its name, in builds that have it; in others random weights in its shape.
    ///
    /// # Errors
    /// As [`ModelFiles::random`].
    pub(crate) fn small() -> Result<(String, Self), ModelError> {
        #[cfg(feature = "sandbox")]
        {
            Ok((super::TINY_MODEL_NAME.to_owned(), Self::tiny()))
        }
        #[cfg(not(feature = "sandbox"))]
        {
            Self::small_random()
        }
    }

    /// Random weights in the shape of the embedded model.
    ///
    /// # Errors
    /// As [`ModelFiles::random`].
    #[cfg(any(test, not(feature = "sandbox")))]
    pub(crate) fn small_random() -> Result<(String, Self), ModelError> {
        Ok(("random weights".to_owned(), Self::random(SMALL_SHAPE.to_vec())?))
    }
}
