//! The files of a model that is named on a command line.

use std::path::Path;

use super::ModelFiles;

impl ModelFiles {
    /// The model at `path` and its name; `tiny` is the embedded model, in builds that have it.
    pub(crate) fn named(path: &Path) -> (String, Self) {
        #[cfg(feature = "sandbox")]
        if path.as_os_str() == "tiny" {
            return (super::TINY_MODEL_NAME.to_owned(), Self::tiny());
        }
        (Self::name_of(path), Self::at(path))
    }
}
