//! Reads an image from either of its two forms.

use std::collections::BTreeMap;

use super::dockerfile;
use super::image::{Image, ImageError};

impl Image {
    /// Reads an image configuration or a Dockerfile; `arguments` are the build's.
    ///
    /// # Errors
    /// [`ImageError`].
    pub fn read(text: &str, arguments: &BTreeMap<String, String>) -> Result<Self, ImageError> {
        if text.trim_start().starts_with(['{', '[']) {
            Self::from_configuration(text)
        } else {
            dockerfile::read(text, arguments)
        }
    }
}
